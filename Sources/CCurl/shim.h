// libcurl: its option setters are variadic macros, which Swift cannot call.
#ifndef FERMATA_CCURL_SHIM_H
#define FERMATA_CCURL_SHIM_H

#include <curl/curl.h>

static inline CURLcode fermata_curl_set_number(CURL *easy, CURLoption option, long value) {
    return curl_easy_setopt(easy, option, value);
}

// libcurl copies the string.
static inline CURLcode fermata_curl_set_string(CURL *easy, CURLoption option, const char *value) {
    return curl_easy_setopt(easy, option, value);
}

// Copies the bytes too.
static inline CURLcode fermata_curl_set_body(CURL *easy, const void *bytes, size_t byte_count) {
    CURLcode result = curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)byte_count);
    return result ? result : curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, bytes);
}

static inline CURLcode fermata_curl_set_headers(CURL *easy, struct curl_slist *headers) {
    return curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
}

typedef size_t (*fermata_curl_write)(char *, size_t, size_t, void *);

static inline CURLcode fermata_curl_set_write(CURL *easy, fermata_curl_write body, void *data) {
    CURLcode result = curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, body);
    return result ? result : curl_easy_setopt(easy, CURLOPT_WRITEDATA, data);
}

// `buffer` has CURL_ERROR_SIZE bytes and outlives the handle.
static inline CURLcode fermata_curl_set_error_buffer(CURL *easy, char *buffer) {
    return curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, buffer);
}

static inline CURLcode fermata_curl_set_private(CURL *easy, void *data) {
    return curl_easy_setopt(easy, CURLOPT_PRIVATE, data);
}

static inline void *fermata_curl_private(CURL *easy) {
    char *data = 0;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &data);
    return data;
}

static inline long fermata_curl_status(CURL *easy) {
    long status = 0;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

// The last value of a header of the answer, or 0; valid until the handle is used again.
static inline const char *fermata_curl_header(CURL *easy, const char *name) {
    struct curl_header *header = 0;
    if (curl_easy_header(easy, name, 0, CURLH_HEADER, -1, &header) != CURLHE_OK) return 0;
    return header->value;
}

static inline CURLcode fermata_curl_set_recipients(CURL *easy, struct curl_slist *addresses) {
    return curl_easy_setopt(easy, CURLOPT_MAIL_RCPT, addresses);
}

typedef size_t (*fermata_curl_read)(char *, size_t, size_t, void *);

static inline CURLcode fermata_curl_set_read(CURL *easy, fermata_curl_read body, void *data) {
    CURLcode result = curl_easy_setopt(easy, CURLOPT_READFUNCTION, body);
    return result ? result : curl_easy_setopt(easy, CURLOPT_READDATA, data);
}

// Whether anything of the request has gone out.
static inline int fermata_curl_has_sent(CURL *easy) {
    long byte_count = 0;
    curl_easy_getinfo(easy, CURLINFO_REQUEST_SIZE, &byte_count);
    return byte_count > 0;
}

typedef int (*fermata_curl_on_socket)(CURL *, curl_socket_t, int, void *, void *);
typedef int (*fermata_curl_on_timer)(CURLM *, long, void *);

static inline void fermata_curl_set_multi(
    CURLM *multi, fermata_curl_on_socket on_socket, fermata_curl_on_timer on_timer, void *data) {
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, data);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(multi, CURLMOPT_TIMERDATA, data);
}

// The next transfer that has ended, or 0.
static inline CURL *fermata_curl_next_done(CURLM *multi, CURLcode *result) {
    int left = 0;
    struct CURLMsg *message;
    while ((message = curl_multi_info_read(multi, &left)) != 0) {
        if (message->msg != CURLMSG_DONE) continue;
        *result = message->data.result;
        return message->easy_handle;
    }
    return 0;
}

#endif
