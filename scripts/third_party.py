#!/usr/bin/env python3
"""Prints the licences of the crates that are linked into the program, for an archive that is handed out.

    scripts/third_party.py TARGET [CARGO FLAGS]        such as x86_64-unknown-linux-gnu --no-default-features

A line for each crate (name, version, licence as it says it), then every licence text and notice that the crates bring, once
for all crates that have the same words. Build tools, procedural macros and tests are not in the program and not in the list.
FFmpeg is linked dynamically and not in the archive.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

TEXTS = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)", re.IGNORECASE)


def cargo(*words):
    return subprocess.run(["cargo", *words], check=True, capture_output=True, text=True).stdout


def linked(target, flags):
    """Names and versions of what is linked, this program's own crates left out."""
    tree = cargo("tree", "--locked", "--target", target, *flags, "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}")
    lines = {tuple(line.split()[:2]) for line in tree.splitlines() if line and "(/" not in line}
    return {(name, version.removeprefix("v")) for name, version in lines}


def texts(folder):
    """The licence files in a crate's folder, their words with spaces made equal."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and TEXTS.search(path.name) and path.suffix not in (".rs", ".toml", ".py", ".html"):
            yield path.read_text(encoding="utf-8", errors="replace").strip()


def main():
    target, *flags = sys.argv[1:]
    wanted = linked(target, flags)
    packages = json.loads(cargo("metadata", "--locked", "--format-version", "1", "--filter-platform", target))["packages"]
    crates = sorted((p for p in packages if (p["name"], p["version"]) in wanted), key=lambda p: (p["name"], p["version"]))
    missing = wanted - {(p["name"], p["version"]) for p in crates}
    if missing:
        sys.exit(f"third_party: cargo metadata does not have {sorted(missing)}")

    print("The program contains these crates. Their licence texts, as the crates bring them, follow the list.\n")
    width = max(len(p["name"]) for p in crates)
    by_words = {}
    for package in crates:
        found = list(texts(Path(package["manifest_path"]).parent))
        said = package["license"] or "see its file"
        note = "" if found else f" (brings no text; {package['repository'] or package['name']})"
        print(f"{package['name']:<{width}}  {package['version']:<20} {said}{note}")
        for text in found:
            by_words.setdefault(" ".join(text.split()), (text, []))[1].append(f"{package['name']} {package['version']}")
    for text, names in by_words.values():
        print("\n" + "=" * 100)
        print(", ".join(dict.fromkeys(names)))
        print("=" * 100 + "\n")
        print(text)


if __name__ == "__main__":
    main()
