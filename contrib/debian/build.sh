#!/bin/sh
# Makes the Debian package: target/debian/kyrodb_VERSION_ARCH.deb.
#
#   contrib/debian/build.sh            builds the programs, then the package
#   contrib/debian/build.sh --no-build takes the programs that are in target/release
#
# It needs Rust, a C compiler, dpkg-dev, and cargo-deb (`cargo install cargo-deb --locked`). The package
# depends on the C library of the machine that it is made on: make it on the oldest Debian that is to
# run it.
set -eu
cd "$(dirname "$0")/../.."

programs="kyrodb kyrodb_server kyrodb_backup kyrodb_ctl kyrodb_load_tester"
release="${CARGO_TARGET_DIR:-target}/release"

if [ "${1:-}" = --no-build ]; then
    shift
else
    cargo build --release --locked --bins
fi

# What the programs know of themselves. Cargo.toml names these directories, wherever the others are.
made=target/package
rm -rf "$made"
mkdir -p "$made/man" "$made/completions"
for program in $programs; do
    "$release/$program" --generate-man "$made/man"
    "$release/$program" --generate-completions "$made/completions"
done

# Debian's changelog: what the version is and when its commit was made, so that the same commit makes the
# same package.
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
seconds=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH="$seconds"
{
    echo "kyrodb ($version-1) unstable; urgency=medium"
    echo
    echo "  * Version $version, as its authors release it."
    echo
    echo " -- KyroDB authors <noreply@kyrodb.invalid>  $(date --utc --date="@$seconds" -R)"
} > "$made/changelog"

exec cargo deb --no-build --locked --strip "$@"
