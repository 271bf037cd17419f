#!/bin/sh
# nginx and PostgreSQL of Debian, installed in a RUN and run: nginx answers on a published port, PostgreSQL to its own
# user, and one container finds the other by name. Prints what they said; fails where one did not answer.
#
#   served.sh RBUILD ROOT.tar PORT     as root and as an ordinary user, with and without subordinate ids
#
# ROOT.tar: `debootstrap --variant=minbase bookworm DIR MIRROR && tar -C DIR -cf ROOT.tar .`, which needs root. No test
# runs this: installing takes a minute, and a mirror. Needs curl. $RBUILD_ROOT is the store.
set -eu
rbuild=$1 root=$2 port=$3
context=$(mktemp -d)
trap '"$rbuild" rm -f served-web served-db >/dev/null 2>&1; rm -rf "$context"' EXIT

[ -n "$("$rbuild" images -q served-base)" ] || "$rbuild" import "$root" served-base >/dev/null
cat > "$context/Dockerfile" <<'END'
FROM served-base
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends nginx postgresql >/log 2>&1 || { tail /log; exit 1; }
RUN echo served by nginx > /var/www/html/index.html
CMD ["nginx", "-g", "daemon off;"]
END
"$rbuild" build -q -t served "$context" >/dev/null
"$rbuild" run -d --name served-web -p "127.0.0.1:$port:80" served >/dev/null
"$rbuild" run -d --name served-db --user postgres served sh -c \
    'cd /tmp && PATH=$PATH:$(echo /usr/lib/postgresql/*/bin) && initdb -D d >/dev/null && exec postgres -D d -k /tmp' >/dev/null

until_it_does() {
    for _ in $(seq 120); do
        "$@" 2>/dev/null && return
        sleep 0.5
    done
    echo "no answer: $*" >&2
    return 1
}
until_it_does curl -sSf -m 5 "http://127.0.0.1:$port/"
until_it_does "$rbuild" exec --user postgres served-db psql -h /tmp -Atc 'select current_user, 6 * 7'
"$rbuild" exec served-web getent hosts served-db
