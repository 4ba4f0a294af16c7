# A TLS server and a client of every other, by OpenSSL's own commands. Peers say a line and are answered.
cd /run/minato/identity || exit 1
own="-cert tls.crt -cert_chain tls.crt -key tls.key -CAfile ca.crt -verify_return_error"
openssl s_server -quiet -accept "$PORT" $own -Verify 3 -rev >/tmp/served 2>&1 &
for peer in $PEERS; do
    name=$peer.$MINATO_APP.internal
    tries=0
    # Not by its status: some hang up without a farewell.
    until
        said=$( (echo hello; /bin/busybox sleep 1) | openssl s_client -quiet -no_ign_eof \
            -connect "$name:$PORT" -servername "$name" -verify_hostname "$name" $own 2>/tmp/why)
        [ -n "$said" ] || [ $tries -gt 20 ]
    do
        tries=$((tries + 1))
    done
    [ -n "$said" ] || said="failed: $(/bin/busybox tail -n 3 /tmp/why)"
    echo "openssl to $peer: $said"
done
name=python.$MINATO_APP.internal
echo | openssl s_client -connect "$name:$PORT" -verify_hostname "node.$MINATO_APP.internal" $own >/dev/null 2>&1 ||
    echo "openssl refuses another name"
wait
