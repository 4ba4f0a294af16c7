// A server that asks another one: GET /HOST/PORT answers with what http://HOST:PORT/ said, whole, or with
// why there was no answer. The name is resolved by the C library that this is built with.
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static size_t ask(const char *host, const char *port, char *said, size_t room) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int refused = getaddrinfo(host, port, &hints, &found);
    if (refused)
        return (size_t)snprintf(said, room, "no name: %s", gai_strerror(refused));
    int other = socket(found->ai_family, SOCK_STREAM, 0);
    struct timeval patience = {.tv_sec = 20}, short_patience = {.tv_sec = 2};
    setsockopt(other, SOL_SOCKET, SO_SNDTIMEO, &short_patience, sizeof short_patience);
    setsockopt(other, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    refused = connect(other, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    size_t length = 0;
    if (refused) {
        length = (size_t)snprintf(said, room, "no connection: %s", strerror(errno));
    } else {
        dprintf(other, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host);
        ssize_t count;
        while (length < room && (count = read(other, said + length, room - length)) > 0)
            length += (size_t)count;
        if (length == 0)
            length = (size_t)snprintf(said, room, "no answer");
    }
    close(other);
    return length;
}

int main(void) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(getenv("PORT")))};
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 64))
        return 1;
    for (;;) {
        int client = accept(listener, NULL, NULL);
        char head[4096], host[256] = "", port[8] = "", said[65536];
        size_t length = 0;
        ssize_t count;
        while (length < sizeof head - 1 && (count = read(client, head + length, sizeof head - 1 - length)) > 0) {
            length += (size_t)count;
            head[length] = 0;
            if (strstr(head, "\r\n\r\n"))
                break;
        }
        if (length > 0 && sscanf(head, "GET /%255[^/]/%7[0-9] ", host, port) == 2) {
            length = ask(host, port, said, sizeof said);
            dprintf(client, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n", length);
            for (size_t sent = 0; sent < length; sent += (size_t)count)
                if ((count = write(client, said + sent, length - sent)) <= 0)
                    break;
        } else {
            dprintf(client, "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        }
        close(client);
    }
}
