// OpenSSL 3, with inline functions for what is a macro or variadic there.
#ifndef FERMATA_COPENSSL_SHIM_H
#define FERMATA_COPENSSL_SHIM_H

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <time.h>

// The length byte and the name, as ALPN has them on the wire.
static const unsigned char fermata_alpn[] = "\x09" "fermata/1";
enum { fermata_alpn_byte_count = 10 };

// What a client adds to its offer if it asks to be let in before others; never chosen.
static const unsigned char fermata_alpn_urgent[] = "\x09" "fermata/1" "\x0d" "fermata-first";
enum { fermata_alpn_urgent_byte_count = 24 };

// How far a server-side handshake is, kept as the connection's application data.
enum { fermata_hello_none, fermata_hello_seen, fermata_hello_seen_urgent, fermata_hello_go };

static inline int fermata_hello_state(SSL *ssl) { return (int)(long)SSL_get_app_data(ssl); }

static inline void fermata_set_hello_state(SSL *ssl, int state) {
    SSL_set_app_data(ssl, (void *)(long)state);
}

// Whether a list of protocols, each with its length byte before it, has the urgent one.
static inline int fermata_asks_first(const unsigned char *list, size_t byte_count) {
    const unsigned char *wanted = fermata_alpn_urgent + fermata_alpn_byte_count;
    for (size_t at = 0; at < byte_count; at += 1 + (size_t)list[at]) {
        if (at + 1 + list[at] > byte_count) return 0;
        if (list[at] == wanted[0] && memcmp(list + at + 1, wanted + 1, wanted[0]) == 0) return 1;
    }
    return 0;
}

// Stops a handshake after its first message, before anything costly, until it may go on.
static inline int fermata_on_client_hello(SSL *ssl, int *alert, void *unused) {
    (void)alert;
    (void)unused;
    if (fermata_hello_state(ssl) == fermata_hello_go) return SSL_CLIENT_HELLO_SUCCESS;
    const unsigned char *offer = 0;
    size_t byte_count = 0;
    int urgent = SSL_client_hello_get0_ext(
                     ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &offer, &byte_count)
        && byte_count > 2 && fermata_asks_first(offer + 2, byte_count - 2);
    fermata_set_hello_state(ssl, urgent ? fermata_hello_seen_urgent : fermata_hello_seen);
    return SSL_CLIENT_HELLO_RETRY;
}

static inline int fermata_select_alpn(
    SSL *ssl, const unsigned char **chosen, unsigned char *chosen_byte_count,
    const unsigned char *offered, unsigned int offered_byte_count, void *unused) {
    (void)ssl;
    (void)unused;
    unsigned char *found = 0;
    if (SSL_select_next_proto(&found, chosen_byte_count, fermata_alpn, fermata_alpn_byte_count,
                              offered, offered_byte_count) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *chosen = found;
    return SSL_TLSEXT_ERR_OK;
}

// How many URI names a certificate has. The first is copied to `buffer` with its zero; one that
// does not fit or has a zero inside leaves it empty.
static inline int fermata_uri_names(X509 *certificate, char *buffer, int byte_count) {
    int count = 0;
    buffer[0] = 0;
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, 0, 0);
    for (int index = 0; index < sk_GENERAL_NAME_num(names); index++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, index);
        if (name->type != GEN_URI) continue;
        if (count++ > 0) continue;
        const ASN1_STRING *uri = name->d.uniformResourceIdentifier;
        int length = ASN1_STRING_length(uri);
        const unsigned char *bytes = ASN1_STRING_get0_data(uri);
        if (length >= byte_count || memchr(bytes, 0, length)) continue;
        memcpy(buffer, bytes, length);
        buffer[length] = 0;
    }
    GENERAL_NAMES_free(names);
    return count;
}

// Whether a chain is refused, beyond what OpenSSL finds by itself; called for each certificate of
// a chain from the authority down, and for each fault. What it refuses goes to the peer as an alert.
static inline int fermata_verify(int is_fine, X509_STORE_CTX *context) {
    X509 *certificate = X509_STORE_CTX_get_current_cert(context);
    char name[1024];
    int error = is_fine ? X509_V_OK : X509_STORE_CTX_get_error(context);
    // A list that nobody has renewed must not stop a fleet: it is used for what it says. And a list
    // is made on another host, whose clock may be ahead.
    if (error == X509_V_ERR_CRL_HAS_EXPIRED || error == X509_V_ERR_CRL_NOT_YET_VALID) {
        X509_STORE_CTX_set_error(context, X509_V_OK);
        return 1;
    }
    if (is_fine && X509_STORE_CTX_get_error_depth(context) == 0) {
        if (X509_check_ca(certificate))
            error = X509_V_ERR_INVALID_PURPOSE;
        else if (fermata_uri_names(certificate, name, sizeof name) != 1 || !name[0])
            error = X509_V_ERR_CERT_REJECTED;
    }
    if (error == X509_V_OK) return 1;
    X509_STORE_CTX_set_error(context, error);
    // Kept for the message; OpenSSL itself forgets a certificate that it has refused. The connection's
    // own application data is the state of its hello, so that of its input has the place.
    SSL *ssl = X509_STORE_CTX_get_ex_data(context, SSL_get_ex_data_X509_STORE_CTX_idx());
    BIO *input = ssl ? SSL_get_rbio(ssl) : 0;
    if (input && certificate && X509_up_ref(certificate)) {
        X509_free(BIO_get_app_data(input));
        BIO_set_app_data(input, certificate);
    }
    return 0;
}

// The certificate of the peer's chain that was refused, or null. The caller then owns it.
static inline X509 *fermata_take_refused(BIO *input) {
    X509 *certificate = BIO_get_app_data(input);
    BIO_set_app_data(input, 0);
    return certificate;
}

// Verifies our own certificate as a peer would: X509_V_OK or the error, and where in the chain.
static inline int fermata_verify_own(SSL_CTX *ssl, X509 *certificate, int is_server, int *depth) {
    X509_STORE_CTX *context = X509_STORE_CTX_new();
    int error = X509_V_ERR_OUT_OF_MEM;
    *depth = 0;
    if (context && X509_STORE_CTX_init(context, SSL_CTX_get_cert_store(ssl), certificate, 0)) {
        X509_STORE_CTX_set_default(context, is_server ? "ssl_server" : "ssl_client");
        X509_STORE_CTX_set_verify_cb(context, fermata_verify);
        error = X509_verify_cert(context) == 1 ? X509_V_OK : X509_STORE_CTX_get_error(context);
        *depth = X509_STORE_CTX_get_error_depth(context);
    }
    X509_STORE_CTX_free(context);
    return error;
}

// Trusts what this authority has signed itself, and nothing that it let others sign.
static inline int fermata_trust(SSL_CTX *ssl, X509 *authority) {
    X509_STORE *store = SSL_CTX_get_cert_store(ssl);
    return X509_STORE_set_depth(store, 0) && X509_STORE_add_cert(store, authority);
}

// Refuses what is on the list. Every trusted authority must then have one.
static inline int fermata_distrust(SSL_CTX *ssl, X509_CRL *list) {
    X509_STORE *store = SSL_CTX_get_cert_store(ssl);
    return X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK) && X509_STORE_add_crl(store, list);
}

// TLS 1.3 only, both sides with certificates, no session tickets, small idle connections.
//
// - Parameter certificates_byte_count: as many bytes of certificates are taken from a peer. OpenSSL reserves
//   room for them before it knows whose they are.
static inline SSL_CTX *fermata_context_new(int is_server, long certificates_byte_count) {
    SSL_CTX *context = SSL_CTX_new(is_server ? TLS_server_method() : TLS_client_method());
    if (!context) return 0;
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION);
    // Without NO_AUTO_CHAIN the authority's own certificate is sent along, which the peer has
    // anyway and would keep a copy of for each session.
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN);
    SSL_CTX_set_max_cert_list(context, certificates_byte_count);
    SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
    SSL_CTX_set_num_tickets(context, 0);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, fermata_verify);
    if (is_server) {
        SSL_CTX_set_alpn_select_cb(context, fermata_select_alpn, 0);
        SSL_CTX_set_client_hello_cb(context, fermata_on_client_hello, 0);
    } else
        SSL_CTX_set_alpn_protos(context, fermata_alpn, fermata_alpn_byte_count);
    return context;
}

// Whether both sides have agreed on ALPN fermata/1.
static inline int fermata_has_alpn(SSL *ssl) {
    const unsigned char *name = 0;
    unsigned int byte_count = 0;
    SSL_get0_alpn_selected(ssl, &name, &byte_count);
    return byte_count + 1 == fermata_alpn_byte_count
        && memcmp(name, fermata_alpn + 1, byte_count) == 0;
}

static inline void fermata_offer_urgent(SSL *ssl) {
    SSL_set_alpn_protos(ssl, fermata_alpn_urgent, fermata_alpn_urgent_byte_count);
}

// The newest error's reason code, or 0; alerts of the peer are 1000 + their number.
static inline int fermata_error_reason(void) { return ERR_GET_REASON(ERR_peek_last_error()); }

static inline void fermata_error_text(char *buffer, int byte_count) {
    unsigned long code = ERR_peek_last_error();
    const char *reason = ERR_reason_error_string(code);
    if (reason)
        BIO_snprintf(buffer, byte_count, "%s", reason);
    else if (ERR_SYSTEM_ERROR(code))
        BIO_snprintf(buffer, byte_count, "system error %d", ERR_GET_REASON(code));
    else
        BIO_snprintf(buffer, byte_count, "no reason given");
}

static inline BIO *fermata_bio_new(void) { return BIO_new(BIO_s_mem()); }

static inline EVP_PKEY *fermata_key_new(void) { return EVP_EC_gen("P-256"); }

static inline int fermata_no_password(char *buffer, int size, int is_writing, void *unused) {
    (void)buffer;
    (void)size;
    (void)is_writing;
    (void)unused;
    return -1;
}

// Never asks for a password on the terminal: an encrypted key is an error.
static inline EVP_PKEY *fermata_read_key(BIO *bio) {
    return PEM_read_bio_PrivateKey(bio, 0, fermata_no_password, 0);
}

static inline X509 *fermata_read_certificate(BIO *bio) {
    return PEM_read_bio_X509(bio, 0, fermata_no_password, 0);
}

static inline long long fermata_unix_seconds(const ASN1_TIME *time) {
    struct tm parts;
    memset(&parts, 0, sizeof parts);
    if (!ASN1_TIME_to_tm(time, &parts)) return 0;
    return (long long)timegm(&parts);
}

// Big-endian bytes of a serial number; returns how many, at most `byte_count`.
static inline int fermata_serial(
    const ASN1_INTEGER *serial, unsigned char *buffer, int byte_count) {
    BIGNUM *number = ASN1_INTEGER_to_BN(serial, 0);
    int count = 0;
    if (number && BN_num_bytes(number) <= byte_count) count = BN_bn2bin(number, buffer);
    BN_free(number);
    return count;
}

static inline int fermata_set_serial(X509 *certificate, const unsigned char *bytes, int count) {
    BIGNUM *number = BN_bin2bn(bytes, count, 0);
    int result = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));
    BN_free(number);
    return result;
}

// The alternative names of another certificate, all of them; 1 also if it has none.
static inline int fermata_copy_names(X509 *certificate, X509 *other) {
    int index = X509_get_ext_by_NID(other, NID_subject_alt_name, -1);
    return index < 0 || X509_add_ext(certificate, X509_get_ext(other, index), -1);
}

// SHA-256 of the public key, 32 bytes.
static inline int fermata_key_digest(const X509 *certificate, unsigned char *digest) {
    return X509_pubkey_digest(certificate, EVP_sha256(), digest, 0);
}

// Appends the name as `O = a, CN = b` to a memory BIO.
static inline void fermata_print_name(BIO *bio, const X509_NAME *name) {
    X509_NAME_print_ex(bio, name, 0, XN_FLAG_ONELINE & ~ASN1_STRFLGS_ESC_MSB);
}

static inline int fermata_add_name(X509_NAME *name, const char *field, const char *value) {
    return X509_NAME_add_entry_by_txt(
        name, field, MBSTRING_ASC, (const unsigned char *)value, -1, -1, 0);
}

// `value` is in the words of OpenSSL's configuration files: check what goes into it.
static inline int fermata_add_extension(
    X509 *certificate, X509 *issuer, int kind, const char *value) {
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, issuer, certificate, 0, 0, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(0, &context, kind, value);
    int result = extension && X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
    return result;
}

#include "revocation.h"

#endif
