#!/bin/sh
# Installs what the build needs beside Rust: FFmpeg's development files, pkg-config and clang (for the bindings' generator).
# Says what it installs, does nothing when all is there, uses sudo only when it is not run as root.
set -eu

have_all() {
    command -v pkg-config >/dev/null 2>&1 && command -v clang >/dev/null 2>&1 &&
        pkg-config --exists libavcodec libavformat libavutil libswscale
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        echo "deps: need root for: $*" >&2
        exit 1
    fi
}

if ! command -v cargo >/dev/null 2>&1; then
    echo "deps: Rust is missing; install it from https://rustup.rs (1.93 or newer), then run this again" >&2
    exit 1
fi
if have_all; then
    exit 0
fi

debian="libavcodec-dev libavformat-dev libavutil-dev libswscale-dev libswresample-dev pkg-config clang make"
fedora="ffmpeg-free-devel pkgconf-pkg-config clang clang-devel make"
homebrew="ffmpeg pkg-config llvm"

if command -v apt-get >/dev/null 2>&1; then
    echo "deps: installing with apt-get: $debian" >&2
    as_root apt-get update -qq
    # shellcheck disable=SC2086  # the list is words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $debian >/dev/null
elif command -v dnf >/dev/null 2>&1; then
    echo "deps: installing with dnf (untested): $fedora" >&2
    # shellcheck disable=SC2086
    as_root dnf install -y $fedora
elif command -v brew >/dev/null 2>&1; then
    echo "deps: installing with brew (untested): $homebrew" >&2
    # shellcheck disable=SC2086
    brew install $homebrew
else
    echo "deps: no apt-get, dnf or brew here; install FFmpeg's development files, pkg-config and clang yourself," >&2
    echo "      or build without MP4 and WebM: cargo build --release --no-default-features --features hub" >&2
    exit 1
fi

if ! have_all; then
    echo "deps: pkg-config still does not find FFmpeg's libraries (libavcodec, libavformat, libavutil, libswscale)" >&2
    exit 1
fi
