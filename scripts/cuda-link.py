#!/usr/bin/env python3
"""Static libraries that stand for NVIDIA's shared ones at link time: cuda-link.py TOOLKIT FOLDER

candle links libcuda, libcublas, libcurand and libnvrtc as shared libraries, so that a program built for CUDA does not start
where one of them is missing. The archives written here have the same functions, each a jump through a table that is filled
when the program starts: from the real libraries, or, where they are missing, with a function that returns the library's
code for "not there". One binary then serves machines with and without a driver.

The CUDA runtime, which a few of candle's kernels want, is linked statically; it looks for the driver by itself.
"""

import pathlib
import re
import subprocess
import sys

# name: (shared library if the toolkit has none to ask, first letters of its functions, what a function returns without it)
LIBRARIES = {
    "cuda": ("libcuda.so.1", r"cu[A-Z]", 100),  # CUDA_ERROR_NO_DEVICE
    "cublas": (None, "cublas(?!Lt)", 1),  # CUBLAS_STATUS_NOT_INITIALIZED
    "cublasLt": (None, "cublasLt", 1),
    "curand": (None, "curand", 203),  # CURAND_STATUS_INITIALIZATION_FAILED
    "nvrtc": (None, "nvrtc", 11),  # NVRTC_ERROR_INTERNAL_ERROR
    "cudnn": (None, "cudnn", 1001),  # CUDNN_STATUS_NOT_INITIALIZED
}

SOURCE = r"""
#include <dlfcn.h>
#include <stddef.h>
__attribute__((visibility("hidden"))) void *vidgen_@lib@_table[@count@];
static const char *const names[@count@] = {@names@};
static int absent(void) { return @code@; }
__attribute__((constructor(101))) static void fill(void) {
  /* without a driver the others are of no use, and they are large */
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL) ? dlopen("@soname@", RTLD_NOW | RTLD_LOCAL) : NULL;
  for (size_t i = 0; i < @count@; i++) {
    void *found = library ? dlsym(library, names[i]) : NULL;
    vidgen_@lib@_table[i] = found ? found : (void *)absent;
  }
}
#if defined(__x86_64__)
#define JUMP(name, offset) __asm__(".text\n.hidden " name "\n.globl " name "\n.type " name ",@function\n" name ":\n" \
  "jmp *vidgen_@lib@_table+" #offset "(%rip)\n");
#elif defined(__aarch64__)
#define JUMP(name, offset) __asm__(".text\n.hidden " name "\n.globl " name "\n.type " name ",%function\n" name ":\n" \
  "adrp x16, vidgen_@lib@_table+" #offset "\nldr x16, [x16, :lo12:vidgen_@lib@_table+" #offset "]\nbr x16\n");
#else
#error "link NVIDIA's own libraries: cargo build --features cuda"
#endif
@jumps@
"""


def shared(toolkit: pathlib.Path, lib: str):
    folders = [toolkit / "lib64", toolkit / "lib", toolkit / "lib/x86_64-linux-gnu", *toolkit.glob("targets/*/lib")]
    folders.append(toolkit.parent / "cudnn/lib")  # where the wheel has cuDNN
    found = [path for folder in folders for path in sorted(folder.glob(f"lib{lib}.so*"))]
    return found[0] if found else None


def functions(toolkit: pathlib.Path, lib: str, path) -> list[str]:
    if lib == "cuda":  # a toolkit without a driver has no libcuda, and its header has every name
        text = (toolkit / "include/cuda.h").read_text()
        names = set(re.findall(r"CUDAAPI\s+(cu[A-Z]\w*)\s*\(", text))
        names |= {new for _, new in re.findall(r"#define\s+(cu[A-Z]\w*)\s+(cu\w+)", text)}
        streams = [new for _, new in re.findall(r"#define\s+(cu[A-Z]\w*)\s+__CUDA_API_P\w*\((cu\w+)\)", text)]
        return sorted(names | {name + end for name in streams for end in ("", "_ptsz", "_ptds")})
    listed = subprocess.run(["nm", "-D", "--defined-only", str(path)], check=True, capture_output=True, text=True).stdout
    names = {line.split()[2].split("@")[0] for line in listed.splitlines() if line.split()[1:2] in (["T"], ["W"], ["t"])}
    return sorted(name for name in names if re.match(LIBRARIES[lib][1] + r"\w*$", name))


def soname(path: pathlib.Path) -> str:
    listed = subprocess.run(["readelf", "-d", str(path)], check=True, capture_output=True, text=True).stdout
    return re.search(r"SONAME.*\[(.+)\]", listed)[1]


def main() -> None:
    toolkit, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for lib, (fixed, _, code) in LIBRARIES.items():
        path = shared(toolkit, lib)
        if path is None and fixed is None:
            if lib == "cudnn":
                continue
            sys.exit(f"cuda-link: no lib{lib}.so under {toolkit}")
        names = functions(toolkit, lib, path)
        text = SOURCE.replace("@names@", ",".join(f'"{name}"' for name in names)).replace("@count@", str(len(names)))
        text = text.replace("@jumps@", "\n".join(f'JUMP("{name}", {8 * i})' for i, name in enumerate(names)))
        text = text.replace("@lib@", lib).replace("@soname@", fixed or soname(path)).replace("@code@", str(code))
        source, thing = folder / f"{lib}.c", folder / f"{lib}.o"
        source.write_text(text)
        subprocess.run(["cc", "-O1", "-fPIC", "-c", str(source), "-o", str(thing)], check=True)
        archive = folder / f"lib{lib}.a"
        archive.unlink(missing_ok=True)
        subprocess.run(["ar", "crs", str(archive), str(thing)], check=True)
        print(f"cuda-link: {archive.name}: {len(names)} functions of {fixed or soname(path)}", file=sys.stderr)
    static = [path for path in toolkit.rglob("libcudart_static.a")]
    if not static:
        sys.exit(f"cuda-link: no libcudart_static.a under {toolkit}")
    runtime = folder / "libcudart.a"
    runtime.unlink(missing_ok=True)
    runtime.symlink_to(static[0].resolve())


main()
