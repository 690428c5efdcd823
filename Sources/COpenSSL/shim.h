// OpenSSL 3, with inline functions for what is a macro or variadic there.
#ifndef FERMATA_COPENSSL_SHIM_H
#define FERMATA_COPENSSL_SHIM_H

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <time.h>

#endif
