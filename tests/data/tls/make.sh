#!/bin/sh
# Made the certificates beside it, once: a CA, a server for loopback, clients by role, and a stranger of another CA.
set -eu
cd "$(dirname "$0")"
authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj "/CN=$1" \
    -keyout "$1.key" -out "$1.pem" -addext basicConstraints=critical,CA:TRUE 2>/dev/null
}
issue() { # name, authority, subject alternative names
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
  printf 'subjectAltName=%s\n' "$3" >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -days 36500 -out "$1.pem" -extfile "$1.ext" 2>/dev/null
  rm "$1.csr" "$1.ext"
}
authority ca
authority other_ca
issue server ca DNS:localhost,IP:127.0.0.1
issue ann ca URI:thaw://owner/ann
issue worker ca URI:thaw://worker
issue admin ca URI:thaw://admin
issue nameless ca DNS:somebody
issue two_roles ca URI:thaw://owner/ann,URI:thaw://admin
issue stranger other_ca URI:thaw://admin
rm -f ca.key other_ca.key ./*.srl
