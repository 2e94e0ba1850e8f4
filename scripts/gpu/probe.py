#!/usr/bin/env python3
"""What check.sh asks of Python: facts of the machine, symbols of libtorch, the reports of tests and attention, and to hold memory."""
import ctypes
import glob
import json
import mmap
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import NoReturn

NODE_VTABLE = "_ZTVN5torch8autograd4NodeE"
# Kinds of sections: SHT_DYNSYM has what a library exports; SHT_SYMTAB all, unless it was stripped.
DYNAMIC, ALL = 11, 2
# What the binding was built for: it has a class derived from torch::autograd::Node.
NODE_VTABLE_SIZE, NODE_SIZE = 0x78, 472


def write(path: str, text: str) -> None:
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".new", path)


def finish(work: str, part: str, detail: dict, note: str, code: int) -> NoReturn:
    write(os.path.join(work, part + ".json"), json.dumps(detail, indent=1))
    write(os.path.join(work, part + ".note"), note + "\n")
    print(json.dumps(detail, indent=1))
    print(note)
    sys.exit(code)


def output(*command: str, seconds: int = 30) -> str | None:
    """Standard output of a command; None where it is missing, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def first(pattern: str, text: str | None) -> str | None:
    found = re.search(pattern, text or "")
    return found.group(1) if found else None


def library_path(name: str, cache: str) -> str | None:
    return first(r"\t" + re.escape(name) + r" \(.*x86-64.*\) => (\S+)", cache)


# ---- facts ----

TORCH = """
import json, torch
facts = dict(version=torch.__version__, cuda=torch.version.cuda, archs=torch.cuda.get_arch_list(), cxx11=torch.compiled_with_cxx11_abi(), available=torch.cuda.is_available())
if facts["available"]:
    p = torch.cuda.get_device_properties(0)
    facts.update(device=p.name, capability=[p.major, p.minor], memory=p.total_memory, processors=p.multi_processor_count, devices=torch.cuda.device_count(),
                 cudnn=torch.backends.cudnn.version(), nccl=list(torch.cuda.nccl.version()), free=torch.cuda.mem_get_info()[0])
print(json.dumps(facts))
"""


def nccl_version(path: str) -> str | None:
    code = "import ctypes, sys; n = ctypes.c_int(); ctypes.CDLL(sys.argv[1]).ncclGetVersion(ctypes.byref(n)); print(n.value)"
    number = output(sys.executable, "-c", code, path)
    if not number:
        return None
    number = int(number)
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def facts(work: str) -> None:
    cache = open(os.path.join(work, "ldconfig.txt"), encoding="utf-8", errors="replace").read()
    smi = output("nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap,power.limit,clocks.max.sm", "--format=csv,noheader")
    libstdcxx = library_path("libstdc++.so.6", cache)
    glibcxx = []
    if libstdcxx:
        glibcxx = sorted({tuple(map(int, version.split(b"."))) for version in re.findall(rb"GLIBCXX_(3\.4(?:\.\d+)?)\0", open(libstdcxx, "rb").read())})
    torch_text = output(sys.executable, "-c", TORCH, seconds=55)  # the first import reads gigabytes
    torch = json.loads(torch_text.strip().splitlines()[-1]) if torch_text else None
    nccl = os.environ.get("LONGNET_NCCL_LIBRARY") or library_path("libnccl.so.2", cache)
    libc = ctypes.CDLL(None)
    libc.gnu_get_libc_version.restype = ctypes.c_char_p
    libtorch = os.environ.get("LONGNET_GPU_CHECK_LIBTORCH") or None
    detail = {
        "gpus": smi.strip().splitlines() if smi else [],
        "driver": first(r", ([\d.]+),", smi),
        "glibc": libc.gnu_get_libc_version().decode(),
        "glibcxx": ".".join(map(str, glibcxx[-1])) if glibcxx else None,
        "torch": torch,
        "libtorch": libtorch,
        "libtorch_files": {name: os.path.getsize(os.path.join(libtorch, name)) for name in sorted(os.listdir(libtorch))} if libtorch and os.path.isdir(libtorch) else None,
        "nccl": {"library": nccl, "version": nccl_version(nccl) if nccl else None},
        "libraries": {name: library_path(name, cache) for name in ("libcuda.so.1", "libssl.so.3", "libcrypto.so.3", "libmpi.so.40", "libmpich.so.12", "libgomp.so.1")},
        "tools": {name: shutil.which(name) for name in ("g++", "nvcc", "nm", "xz", "mpiexec", "dotnet", "nvidia-smi", "cuobjdump", "ncu", "nsys", "cmake", "ninja")},
        "compiler": (output("g++", "-dumpfullversion") or "").strip() or None,
        "nvcc": first(r"release ([\d.]+)", output("nvcc", "--version")),
        "processor": first(r"model name\s*: (.*)", open("/proc/cpuinfo", encoding="utf-8").read()),
        "cores": len(os.sched_getaffinity(0)),
        "memory_kib": int(first(r"MemTotal:\s*(\d+)", open("/proc/meminfo", encoding="utf-8").read())),
        "python": sys.version.split()[0],
    }
    missing = [what for what, there in (("no GPU by nvidia-smi", smi), ("no PyTorch in python3", torch), ("no GPU by PyTorch", torch and torch["available"]), ("no libtorch", libtorch), ("no NCCL", nccl)) if not there]
    known = (f"{detail['gpus'][0] if smi else 'no GPU'}; torch {torch['version'] if torch else 'none'}; NCCL {detail['nccl']['version']}; glibc {detail['glibc']}; "
             f"GLIBCXX {detail['glibcxx']}; g++ {detail['compiler']}; nvcc {detail['nvcc']}")
    wanted = not os.environ.get("LONGNET_GPU_CHECK_REASON") and not os.environ.get("LONGNET_GPU_CHECK_REHEARSAL")
    finish(work, "facts", detail, known + "".join("; " + what for what in missing), 1 if missing and wanted else 0)


# ---- symbols ----

def symbols_of(path: str, table: int = DYNAMIC) -> Iterator[tuple[str, int]]:
    """Name and size of what an x86-64 ELF library defines in a table of symbols."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < 64:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:5] != b"\x7fELF\x02":
                return
            start, = struct.unpack_from("<Q", data, 40)
            entry, count = struct.unpack_from("<HH", data, 58)
            # name, type, flags, address, offset, size, link, info, alignment, size of an entry
            sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + index * entry) for index in range(count)]
            for section in sections:
                if section[1] != table:
                    continue
                names = sections[section[6]]
                text = data[names[4]:names[4] + names[5]]
                for name, _, _, place, _, size in struct.iter_unpack("<IBBHQQ", data[section[4]:section[4] + section[5]]):
                    if place != 0:  # SHN_UNDEF
                        yield text[name:text.index(b"\0", name)].decode("ascii", "replace"), size


def node_size(libtorch: str) -> tuple[int | None, str | None]:
    """sizeof(torch::autograd::Node) by the headers, and else why not."""
    compiler = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if not compiler:
        return None, "no compiler"
    include = os.environ.get("LONGNET_TORCH_INCLUDE") or os.path.join(os.path.dirname(os.path.abspath(libtorch)), "include")
    if not os.path.isfile(os.path.join(include, "torch/csrc/autograd/function.h")):
        return None, "no headers"
    program = "#include <torch/csrc/autograd/function.h>\nextern \"C\" { unsigned long longnet_node_size = sizeof(torch::autograd::Node); }\n"
    problem = None
    for standard in ("c++17", "c++20"):
        try:
            done = subprocess.run(
                [compiler, "-x", "c++", "-std=" + standard, "-S", "-o", "-", "-I", include, "-I", os.path.join(include, "torch/csrc/api/include"), "-"],
                input=program, capture_output=True, text=True, timeout=40)
        except subprocess.TimeoutExpired:
            return None, "the compiler took too long"
        size = first(r"longnet_node_size:\s*\.quad\s+(\d+)", done.stdout)
        if size:
            return int(size), None
        problem = first(r"(.*error.*)", done.stderr) or f"the compiler ended with {done.returncode}"
        print(done.stderr[:4000])
    return None, problem


def symbols(work: str, bundle: str) -> None:
    libtorch = os.environ.get("LONGNET_GPU_CHECK_LIBTORCH")
    if not libtorch or not os.path.isdir(libtorch):
        finish(work, "symbols", {}, "there is no libtorch: python3 has no PyTorch, and LONGNET_LIBTORCH names no folder", 77)
    needed = set(open(os.path.join(bundle, "libtorch-symbols-needed.txt"), encoding="ascii").read().split())
    found, libraries, vtable = set(), {}, None
    for path in sorted(glob.glob(os.path.join(libtorch, "*.so*"))):
        count = 0
        for name, size in symbols_of(path):
            count += 1
            found.add(name)
            if name == NODE_VTABLE and os.path.basename(path).startswith("libtorch_cpu"):
                vtable = size
        libraries[os.path.basename(path)] = count
    missing = sorted(needed - found)
    binding = os.path.join(bundle, "programs", "libLibTorchSharp.so")
    derived = dict(symbols_of(binding, ALL)).get("_ZTV10CSharpNode")
    # The loader's own word, on all libraries and not only on the list.
    try:
        ldd = subprocess.run(["ldd", "-r", binding], capture_output=True, text=True, timeout=60,
                             env={**os.environ, "LD_LIBRARY_PATH": libtorch + ":" + os.environ.get("LD_LIBRARY_PATH", "")})
        undefined = re.findall(r"undefined symbol: (\S+)", ldd.stdout + ldd.stderr)
        # A version that is only wanted weakly does not keep the loader from loading.
        absent = sorted({library or version for library, version in re.findall(r"(\S+) => not found|(?<!weak )version .(\S+?). not found", ldd.stdout + ldd.stderr)})
    except (OSError, subprocess.TimeoutExpired):
        undefined = absent = None
    size, why = node_size(libtorch)
    detail = {
        "needed": len(needed), "missing": missing, "exports": libraries, "node_vtable": vtable, "node_vtable_expected": NODE_VTABLE_SIZE, "binding_vtable": derived,
        "node_size": size, "node_size_expected": NODE_SIZE, "node_size_problem": why, "ldd_undefined": undefined and undefined[:50], "ldd_absent": absent,
    }
    bad = []
    if missing:
        bad.append("symbols are missing")
    if vtable != NODE_VTABLE_SIZE:
        bad.append(f"the vtable of Node is not {NODE_VTABLE_SIZE:#x}")
    if derived not in (None, NODE_VTABLE_SIZE):
        bad.append(f"the binding has a vtable of {derived:#x}")
    if size not in (None, NODE_SIZE):
        bad.append(f"sizeof(Node) is not {NODE_SIZE}")
    if undefined or absent:
        bad.append("the loader misses something")
    note = (f"{len(missing)} of {len(needed)} missing; vtable of Node {'none' if vtable is None else hex(vtable)}; sizeof(Node) {size if size else 'unknown: ' + why}; "
            f"ldd -r: {'not run' if undefined is None else str(len(undefined)) + ' undefined'}" + "".join("; " + each for each in bad))
    finish(work, "symbols", detail, note, 1 if bad else 0)


# ---- the tests' report ----

def tests(work: str, code: int) -> None:
    path = os.path.join(work, "tests.xml")
    if not os.path.isfile(path) or os.path.getsize(path) == 0:
        log = open(os.path.join(work, "tests.log"), encoding="utf-8", errors="replace").read()
        started = re.findall(r"^\s*(\S.*) \[STARTING\]$", log, re.MULTILINE)
        said = re.findall(r"^(?!\s*at |.*check\.sh: line )\s*(\S.*)$", log, re.MULTILINE)
        finish(work, "tests", {"exit_code": code, "last_started": started[-1:]},
               f"the tests ended with code {code} and wrote no report; " + (f"last began {started[-1].rsplit('.', 1)[-1]}; " if started else "") + f"last: {said[-1] if said else 'nothing'}", 1)
    root = ElementTree.parse(path).getroot()
    total = {key: sum(int(each.get(key, 0)) for each in root.iter("assembly")) for key in ("total", "passed", "failed", "skipped", "errors")}
    results = [{"name": each.get("name"), "result": each.get("result"), "seconds": float(each.get("time", 0)),
                "message": (each.findtext(".//message") or each.findtext("reason") or "")[:600]} for each in root.iter("test")]
    reasons = sorted({each["message"] for each in results if each["result"] == "Skip"})
    failed = [each["name"].rsplit(".", 1)[-1] for each in results if each["result"] == "Fail"]
    note = f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped"
    if failed:
        note += "; failed: " + ", ".join(failed)
    elif reasons:
        note += "; skipped: " + reasons[0]
    if total["failed"] or total["errors"] or code not in (0, None) and not total["skipped"]:
        status = 1
    else:
        status = 77 if total["passed"] == 0 or total["skipped"] else 0
    finish(work, "tests", {"exit_code": code, "totals": total, "tests": results}, note, status)


# ---- attention's reports ----

def attention(work: str, kernels: list[str]) -> None:
    """The forward and backward times of dilated attention by kernel, as one line."""
    told = []
    for kernel in kernels:
        try:
            with open(os.path.join(work, f"attention-{kernel}.md"), encoding="utf-8") as file:
                rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in file if re.match(r"\|\s*\d", line)]
        except OSError:
            told.append(f"{kernel}: no report")
            continue
        # length; forward (a), (b), a/b, (k), a/k, (c), share; the same with backward
        told.append(f"{kernel}: " + ", ".join(f"{row[0]}: {row[8]} ms, a/b {row[10]}" for row in rows if len(row) > 10))
    note = "forward and backward of " + "; ".join(told)
    write(os.path.join(work, "bench-attention.note"), note + "\n")
    print(note)


# ---- holding memory ----

def hold(share: float) -> None:
    """Keeps a share of the GPU's memory until the process is ended, two minutes at most."""
    import torch

    free, total = torch.cuda.mem_get_info()
    kept = torch.empty(max(0, int(free - (1 - share) * total)), dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    print(f"held {kept.numel() >> 20} of {total >> 20} MiB", flush=True)
    time.sleep(120)


if __name__ == "__main__":
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "facts":
        facts(arguments[0])
    elif command == "symbols":
        symbols(arguments[0], arguments[1])
    elif command == "tests":
        tests(arguments[0], int(arguments[1]))
    elif command == "attention":
        attention(arguments[0], arguments[1:])
    elif command == "hold":
        hold(float(arguments[0]))
    else:
        sys.exit(f"probe.py: there is no command {command}")
