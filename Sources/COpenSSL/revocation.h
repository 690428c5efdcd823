// Certificate revocation lists, version 2. Part of shim.h.
#ifndef FERMATA_REVOCATION_H
#define FERMATA_REVOCATION_H

#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdint.h>
#include <time.h>

static inline X509_CRL *fermata_read_list(BIO *bio) {
    return PEM_read_bio_X509_CRL(bio, 0, fermata_no_password, 0);
}

// The list's number; returns 0 if it has none, or one of more than 64 bits.
static inline int fermata_list_number(X509_CRL *list, uint64_t *number) {
    ASN1_INTEGER *value = X509_CRL_get_ext_d2i(list, NID_crl_number, 0, 0);
    int result = value && ASN1_INTEGER_get_uint64(number, value);
    ASN1_INTEGER_free(value);
    return result;
}

static inline int fermata_list_count(X509_CRL *list) {
    return sk_X509_REVOKED_num(X509_CRL_get_REVOKED(list));
}

// One entry: its serial number, when it was revoked, and the reason's number or -1.
static inline const ASN1_INTEGER *fermata_list_entry(
    X509_CRL *list, int index, long long *unix_seconds, int *reason) {
    X509_REVOKED *entry = sk_X509_REVOKED_value(X509_CRL_get_REVOKED(list), index);
    ASN1_ENUMERATED *value = X509_REVOKED_get_ext_d2i(entry, NID_crl_reason, 0, 0);
    *unix_seconds = fermata_unix_seconds(X509_REVOKED_get0_revocationDate(entry));
    *reason = value ? (int)ASN1_ENUMERATED_get(value) : -1;
    ASN1_ENUMERATED_free(value);
    return X509_REVOKED_get0_serialNumber(entry);
}

// An empty list of the authority's, unsigned; null if memory runs out.
static inline X509_CRL *fermata_list_new(
    X509 *authority, long long made_at, long long next_at, uint64_t number) {
    X509_CRL *list = X509_CRL_new();
    ASN1_TIME *made = ASN1_TIME_set(0, (time_t)made_at);
    ASN1_TIME *next = ASN1_TIME_set(0, (time_t)next_at);
    ASN1_INTEGER *value = ASN1_INTEGER_new();
    int result = list && made && next && value
        && X509_CRL_set_version(list, 1)  // counted from 0: version 2
        && X509_CRL_set_issuer_name(list, X509_get_subject_name(authority))
        && X509_CRL_set1_lastUpdate(list, made) && X509_CRL_set1_nextUpdate(list, next)
        && ASN1_INTEGER_set_uint64(value, number)
        && X509_CRL_add1_ext_i2d(list, NID_crl_number, value, 0, 0) == 1;
    ASN1_TIME_free(made);
    ASN1_TIME_free(next);
    ASN1_INTEGER_free(value);
    if (result) return list;
    X509_CRL_free(list);
    return 0;
}

// `reason` is its number, or -1 to give none.
static inline int fermata_list_add(
    X509_CRL *list, const unsigned char *serial, int byte_count, long long unix_seconds,
    int reason) {
    X509_REVOKED *entry = X509_REVOKED_new();
    BIGNUM *number = BN_bin2bn(serial, byte_count, 0);
    ASN1_INTEGER *value = number ? BN_to_ASN1_INTEGER(number, 0) : 0;
    ASN1_TIME *date = ASN1_TIME_set(0, (time_t)unix_seconds);
    ASN1_ENUMERATED *code = ASN1_ENUMERATED_new();
    int result = entry && value && date && code
        && X509_REVOKED_set_serialNumber(entry, value)
        && X509_REVOKED_set_revocationDate(entry, date);
    if (result && reason >= 0)
        result = ASN1_ENUMERATED_set(code, reason)
            && X509_REVOKED_add1_ext_i2d(entry, NID_crl_reason, code, 0, 0) == 1;
    if (result && X509_CRL_add0_revoked(list, entry))
        entry = 0;
    else
        result = 0;
    X509_REVOKED_free(entry);
    BN_free(number);
    ASN1_INTEGER_free(value);
    ASN1_TIME_free(date);
    ASN1_ENUMERATED_free(code);
    return result;
}

static inline int fermata_list_sign(X509_CRL *list, X509 *authority, EVP_PKEY *key) {
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, authority, 0, 0, list, 0);
    X509_EXTENSION *identifier =
        X509V3_EXT_conf_nid(0, &context, NID_authority_key_identifier, "keyid");
    int result = identifier && X509_CRL_add_ext(list, identifier, -1) && X509_CRL_sort(list)
        && X509_CRL_sign(list, key, EVP_sha256()) > 0;
    X509_EXTENSION_free(identifier);
    return result;
}

#endif
