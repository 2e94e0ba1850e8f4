#!/usr/bin/env python3
"""All results of check.sh so far as JSON and as a page: report.py WORK OUT BUNDLE SECONDS."""
import json
import os
import sys
import time

Row = dict
PARTS_WITH_LOSSES = ("train", "options", "staged2", "nccl2", "resume")


def read(folder: str, name: str) -> dict | None:
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def write(path: str, text: str) -> None:
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".new", path)


def rows_of(work: str) -> list[Row]:
    rows = []
    with open(os.path.join(work, "rows"), encoding="utf-8", errors="replace") as file:
        for line in file:
            part, status, code, seconds, note = line.rstrip("\n").split("\t", 4)
            rows.append({"part": part, "status": status, "code": int(code) if code.lstrip("-").isdigit() else None, "seconds": int(seconds),
                         "note": note, "detail": read(work, part + ".json")})
    return rows


def cell(value: object, form: str = "") -> str:
    text = "" if value is None else format(value, form) if form else str(value)
    return text.replace("|", "/").replace("\n", " ")[:300]


def losses(row: Row) -> list[str]:
    lines = [f"## Losses: {row['part']}\n", "| what | first step | last step | allowed | loss | reference | good |", "| --- | ---: | ---: | --- | ---: | ---: | --- |"]
    for each in (row["detail"] or {}).get("rows", []):
        allowed = f"{each['tolerance_first']:.0e}, {each['tolerance_last']:.0e}"
        if "error" in each:
            lines.append(f"| {cell(each['what'])} | {cell(each['error'])} | | {allowed} | | | no |")
            continue
        lines.append(f"| {cell(each['what'])} | {each['difference_first']:.1e} | {each['difference_last']:.1e} | {allowed} | {cell(each['loss'], '.6f')} | "
                     f"{cell(each['reference_loss'], '.6f')} | {'yes' if each['good'] else 'no'}{', same bits' if each['same_bits'] else ''} |")
    return [*lines, ""]


def peer(detail: Row) -> list[str]:
    lines = ["## PyTorch alone on this device\n", "| what | length | ms | tokens/s | TFLOP/s | GiB | |", "| --- | ---: | ---: | ---: | ---: | ---: | --- |"]
    for each in detail.get("results", []):
        numbers = (cell(each.get(key), form) for key, form in (("ms", ".3f"), ("tokens_per_second", ".0f"), ("tflops", ".1f"), ("gib", ".2f")))
        lines.append(f"| {cell(each['what'])} | {cell(each.get('length'))} | " + " | ".join(numbers) + f" | {cell(each.get('error'))} |")
    return [*lines, ""]


def page(work: str, rows: list[Row], commit: str, date: str) -> str:
    lines = [f"# GPU report\n\nWritten by scripts/gpu/check.sh on {date}, of commit {commit}.\n", "| part | status | s | what it says |", "| --- | --- | ---: | --- |"]
    lines += [f"| {row['part']} | {row['status']} | {row['seconds']} | {cell(row['note'])} |" for row in rows] + [""]
    for row in rows:
        if row["part"] in PARTS_WITH_LOSSES and row["detail"]:
            lines += losses(row)
        elif row["part"] == "peer" and row["detail"]:
            lines += peer(row["detail"])
        elif row["part"] == "bench-attention":
            for name in sorted(os.listdir(work)):
                if name.startswith("attention-") and name.endswith(".md"):
                    with open(os.path.join(work, name), encoding="utf-8") as file:
                        lines += [f"`LONGNET_CUDA_ATTENTION={name[10:-3]}`:\n", file.read()]
    return "\n".join(lines)


def main(work: str, out: str, bundle: str, seconds: str) -> None:
    with open(os.path.join(bundle, "COMMIT"), encoding="utf-8") as file:
        commit = file.read().strip()
    rows, date = rows_of(work), time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    # A part that has a JSON file of its own beside PART.json.
    others = {name[:-5]: read(work, name) for name in sorted(os.listdir(work)) if name.startswith("attention-") and name.endswith(".json")}
    write(os.path.join(out, "results.json"), json.dumps({"commit": commit, "date": date, "seconds": int(seconds), "parts": rows, **others}, indent=1) + "\n")
    write(os.path.join(out, "gpu-report.md"), page(work, rows, commit, date[:10]))


if __name__ == "__main__":
    main(*sys.argv[1:5])
