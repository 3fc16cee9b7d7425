#!/bin/sh
# An archive to hand out: the stripped program, completions, manual pages, licences, README and CHANGELOG.
#
#   scripts/dist.sh PROGRAM [DIRECTORY]        default: target/dist
#
# Writes vidgen-VERSION-TARGET.tar.gz, and its SHA-256 beside it in sha256sum's form. The same program, toolchain and commit make
# the same bytes: names are sorted, owners are 0, and all times are SOURCE_DATE_EPOCH, by default that of the commit.
# TARGET says for what machine the program was built (default: rustc's host), STRIP what strips it.
set -eu
cd "$(dirname "$0")/.."
program=$1
into=${2:-target/dist}
target=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

"$program" --version > /dev/null || { echo "dist: $program does not start; make build makes it" >&2; exit 1; }
version=$("$program" --version | cut -d' ' -f2)
name=vidgen-$version-$target
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/$name
mkdir -p "$root/completions" "$root/man" "$into"

cp "$program" "$root/vidgen"
"${STRIP:-strip}" "$root/vidgen"

"$program" completions bash > "$root/completions/vidgen.bash"
"$program" completions zsh > "$root/completions/_vidgen"
"$program" completions fish > "$root/completions/vidgen.fish"
"$program" man > "$root/man/vidgen.1"
# the main page lists the others
for command in $(sed -n 's/\\//g; s/^vidgen-\(.*\)(1)$/\1/p' "$root/man/vidgen.1"); do
    [ "$command" = help ] || "$program" man "$command" > "$root/man/vidgen-$command.1"
done

cp README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$root"
python3 scripts/third_party.py "$target" > "$root/LICENSES-THIRD-PARTY"
# and of weights of others that are in the program
for licence in models/*/LICENSE*; do
    [ ! -e "$licence" ] || { printf '\n%s\n\n' "==== $licence"; cat "$licence"; } >> "$root/LICENSES-THIRD-PARTY"
done

find "$root" -type d -exec chmod 755 {} +
find "$root" -type f -exec chmod 644 {} +
chmod 755 "$root/vidgen"
tar --sort=name --format=ustar --owner=0 --group=0 --numeric-owner --mtime="@$epoch" -C "$work" -cf "$work/archive.tar" "$name"
gzip -9n < "$work/archive.tar" > "$work/$name.tar.gz"
(cd "$work" && sha256sum "$name.tar.gz" > "$name.tar.gz.sha256")
mv "$work/$name.tar.gz" "$work/$name.tar.gz.sha256" "$into"
echo "$into/$name.tar.gz"
