#!/usr/bin/env bash
# Makes certificates for TLS between Ray's nodes, in a folder of their own: one authority, and one certificate that is
# good for the given addresses and no others. Send the folder to every node, as ~/.ray/tls; start.sh takes it from there.
#   bash cluster/tls.sh ~/.ray/tls 192.0.2.1 192.0.2.2 192.0.2.3
# More nodes, or a new year: run it again, send the folder again, and start Ray on all nodes anew.
set -euo pipefail

if [ "$#" -lt 2 ]; then
  echo "Say a folder and the addresses of all nodes: tls.sh ~/.ray/tls 192.0.2.1 192.0.2.2" >&2
  exit 2
fi
folder="$1"
names="DNS:localhost,IP:127.0.0.1"
for address in "${@:2}"; do
  case "$address" in
    *[!0-9.:a-fA-F]*) names="$names,DNS:$address" ;;
    *) names="$names,IP:$address" ;;
  esac
done

umask 077
mkdir -p "$folder"
work="$(mktemp -d "$folder/.new.XXXXXX")"
trap 'rm -rf "$work"' EXIT
trap 'cat "$work/log" >&2' ERR
# The authority's key is thrown away: nobody can make a certificate that these nodes trust but by making all anew.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=llamafarm nodes" \
  -keyout "$work/authority.key" -out "$work/ca.crt" 2>>"$work/log"
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=llamafarm node" \
  -keyout "$work/node.key" -out "$work/node.csr" 2>>"$work/log"
openssl x509 -req -in "$work/node.csr" -CA "$work/ca.crt" -CAkey "$work/authority.key" -CAcreateserial -days 365 \
  -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$names") \
  -out "$work/node.crt" 2>>"$work/log"
mv "$work/ca.crt" "$work/node.crt" "$work/node.key" "$folder"
echo "$folder: ca.crt, node.crt, node.key for $names, until $(openssl x509 -in "$folder/node.crt" -noout -enddate | cut -d= -f2)"
