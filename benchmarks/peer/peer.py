#!/usr/bin/env python3
"""What PyTorch alone does on the same GPU: the peer of the project's own numbers.

  peer.py all          everything below that fits into --seconds
  peer.py attention    matrix products; causal attention by scaled_dot_product_attention; dilated attention
  peer.py step         a training step of the shape of configs/longnet.yaml: dilated and dense attention, eager and compiled

Dilated attention is put together from PyTorch's operators as the published implementation does it: each branch copies its rows out,
attends by the flash kernel, and is written back to full length; the branches are mixed by their log-sum-exps, which have no gradient.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

try:
    import torch
    import torch.nn.functional as functional
    from torch import Tensor, nn
except ImportError as error:
    print(f"python3 has no PyTorch: {error}")
    sys.exit(77)

# configs/longnet.yaml
LAYERS, CHANNELS, HEADS, HIDDEN, VOCABULARY, LENGTH = 12, 768, 12, 3072, 256, 32768
SEGMENTS, RATES = [2048, 4096, 8192, 16384, 32768], [1, 2, 4, 6, 12]
# longnet bench attention
BENCH_HEADS, BENCH_CHANNELS, BENCH_SEGMENTS, BENCH_RATES = 8, 64, [2048, 4096, 8192, 16384], [1, 2, 4, 8]


# ---- dilated attention ----

def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Causal attention of [batch, heads, rows, channels] by the flash kernel; also the log-sum-exp, [batch, heads, rows]."""
    if q.device.type == "cpu":
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)[:2]
    else:
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True)[:2]
    return output, lse[..., : q.shape[2]]


def gathered(x: Tensor, segment: int, rate: int) -> Tensor:
    """Of [batch, length, heads, channels] every rate-th row of each segment, head group j from row j on: [segments, heads, rows, channels]."""
    batch, length, heads, channels = x.shape
    x = x.reshape(batch * length // segment, segment, heads, channels)
    x = functional.pad(x, (0, 0, 0, 0, 0, -segment % rate))
    x = x.reshape(x.shape[0], -1, rate, rate, heads // rate, channels)
    x = torch.diagonal(x, dim1=2, dim2=3)  # [segments, rows, heads / rate, channels, rate]
    return x.permute(0, 1, 4, 2, 3).reshape(x.shape[0], x.shape[1], heads, channels).transpose(1, 2)


def scattered(output: Tensor, lse: Tensor, segment: int, rate: int, batch: int) -> tuple[Tensor, Tensor]:
    """Back to all rows, zeros and a log-sum-exp of -1e8 where the branch has none: [batch, heads, length, channels] and [..., 1]."""
    segments, heads, rows, channels = output.shape
    output = output.reshape(segments, rate, heads // rate, rows, channels).permute(0, 3, 2, 4, 1)
    output = torch.diag_embed(output).permute(0, 5, 2, 1, 4, 3).reshape(segments, heads, rows * rate, channels)[:, :, :segment]
    lse = lse.detach().reshape(segments, rate, heads // rate, rows).permute(0, 3, 2, 1)
    lse = torch.diag_embed(lse)
    lse = lse.masked_fill(lse == 0, -1e8).permute(0, 4, 2, 1, 3).reshape(segments, heads, rows * rate, 1)[:, :, :segment]
    output, lse = (x.reshape(batch, segments // batch, heads, segment, -1).transpose(1, 2).reshape(batch, heads, -1, x.shape[-1]) for x in (output, lse))
    return output, lse


def dilated(q: Tensor, k: Tensor, v: Tensor, segments: list[int], rates: list[int]) -> Tensor:
    """Dilated attention of [batch, length, heads, channels]; the same shape."""
    outputs, lses = [], []
    for segment, rate in zip(segments, rates):
        segment = min(segment, q.shape[1])
        output, lse = scattered(*attend(*(gathered(x, segment, rate) for x in (q, k, v))), segment, rate, q.shape[0])
        outputs.append(output)
        lses.append(lse)
    with torch.no_grad():
        weights = torch.softmax(torch.stack(lses), dim=0)
    mixed = sum(output * weight.to(output.dtype) for output, weight in zip(outputs, weights))
    return mixed.transpose(1, 2)


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True).transpose(1, 2)


def largest_error(device: torch.device) -> float:
    """Of dilated attention, against masks and one softmax over all branches in float64."""
    torch.manual_seed(3)
    length, heads, channels, segments, rates = 96, 6, 32, [16, 32, 96], [1, 6, 3]  # 6 does not divide 32
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (torch.randn(1, length, heads, channels, device=device).to(dtype) for _ in range(3))
    result = dilated(q, k, v, segments, rates).double()
    logits = torch.einsum("bihc,bjhc->bhij", q.double(), k.double()) / math.sqrt(channels)
    row = torch.arange(length, device=device)
    weights = torch.zeros_like(logits)
    for segment, rate in zip(segments, rates):
        for head in range(heads):
            kept = row % segment % rate == head // (heads // rate)
            seen = kept[:, None] & kept[None, :] & (row[:, None] // segment == row[None, :] // segment) & (row[:, None] >= row[None, :])
            weights[0, head] += seen * torch.exp(logits[0, head])
    expected = torch.einsum("bhij,bjhc->bihc", weights / weights.sum(-1, keepdim=True), v.double())
    return float((result - expected).abs().max())


# ---- the model ----

class Block(nn.Module):
    def __init__(self, attention: Callable[[Tensor, Tensor, Tensor], Tensor]):
        super().__init__()
        self.attention = attention
        self.norm1, self.norm2 = nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)
        self.qkv, self.out = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.up, self.down = nn.Linear(CHANNELS, HIDDEN), nn.Linear(HIDDEN, CHANNELS)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, scale: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, HEADS, -1).unbind(2)
        q, k = rotated(q, cosine, sine) * scale, rotated(k, cosine, sine) / scale
        attended = self.attention(q.to(v.dtype), k.to(v.dtype), v)
        x = x + self.out(attended.reshape(batch, length, CHANNELS))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cosine + torch.cat((-b, a), -1) * sine


class Model(nn.Module):
    def __init__(self, attention: Callable[[Tensor, Tensor, Tensor], Tensor], length: int):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, CHANNELS)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(attention) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(CHANNELS)
        # xPos, centred so that its scales stay within the range of bfloat16
        channels = CHANNELS // HEADS
        position = torch.arange(length, dtype=torch.float32)[:, None]
        angle = position / 10000 ** (torch.arange(0, channels, 2) / channels)
        base = (torch.arange(0, channels, 2) / channels + 0.4) / 1.4
        for name, table in (("cosine", angle.cos()), ("sine", angle.sin()), ("scale", base ** ((position - length // 2) / max(512, length)))):
            self.register_buffer(name, torch.cat((table, table), -1)[None, :, None, :].to(torch.bfloat16))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cosine, self.sine, self.scale)
        logits = functional.linear(self.norm(x), self.embedding.weight)
        return functional.cross_entropy(logits.view(-1, VOCABULARY).float(), targets.view(-1))


def training_step(attention: Callable[[Tensor, Tensor, Tensor], Tensor], length: int, batch: int, device: torch.device, compiled: bool) -> Callable[[], None]:
    """A step: bfloat16 by autocast, float32 parameters, one fused AdamW, clipping as in configs/longnet.yaml."""
    torch.manual_seed(1)
    model = Model(attention, length).to(device)
    if compiled:
        for block in model.blocks:
            block.compile(dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.98), weight_decay=0.01, fused=device.type == "cuda")
    tokens = torch.randint(VOCABULARY, (batch, length + 1), device=device)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return run


# ---- measuring ----

class Measurements:
    """Medians, written to a file after each, so that a time limit loses none."""

    def __init__(self, device: str, seconds: float, out: str | None):
        self.device, self.out, self.results, self.end = torch.device(device), out, [], time.monotonic() + seconds
        self.about: dict = {"torch": torch.__version__, "device": device}
        if self.device.type == "cuda":
            self.about.update(device=torch.cuda.get_device_name(), cudnn=torch.backends.cudnn.version(), cuda=torch.version.cuda)

    def add(self, what: str, prepare: Callable[[], Callable[[], object]], flops: float | None = None, tokens: int | None = None, **facts: object) -> None:
        """prepare() returns what is timed. Errors are results too."""
        row: dict = {"what": what, **facts}
        self.results.append(row)
        if time.monotonic() > self.end:
            row["error"] = "no time was left"
        else:
            try:
                row.update(self.time(prepare()))
                row["tflops"] = flops / row["ms"] * 1e-9 if flops else None
                row["tokens_per_second"] = tokens / row["ms"] * 1e3 if tokens else None
            except Exception as error:  # a backend that refuses a shape, or memory that does not suffice
                row["error"] = f"{type(error).__name__}: {error}".split("\n")[0][:300]
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        print(json.dumps(row), flush=True)
        self.write()

    def write(self) -> None:
        if self.out:
            with open(self.out + ".new", "w", encoding="utf-8") as file:
                json.dump({**self.about, "results": self.results}, file, indent=1)
            os.replace(self.out + ".new", self.out)

    def time(self, run: Callable[[], object]) -> dict:
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            run()
        times: list[float] = []
        end = time.monotonic() + 1.0
        while len(times) < 3 or len(times) < 20 and time.monotonic() < end:
            if cuda:
                torch.cuda.synchronize()
            begin = time.perf_counter()
            run()
            if cuda:
                torch.cuda.synchronize()
            times.append((time.perf_counter() - begin) * 1e3)
        return {"ms": statistics.median(times), "shortest_ms": min(times), "rounds": len(times), "gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None}


def once(function: Callable[..., Tensor], inputs: list[Tensor], gradient: Tensor, backward: bool) -> Callable[[], None]:
    """A call of function, forward alone or with the gradients of its inputs."""
    def forward() -> None:
        with torch.no_grad():
            function(*inputs)

    def both() -> None:
        for each in inputs:
            each.grad = None
        function(*inputs).backward(gradient)

    return both if backward else forward


def measure_attention(all: Measurements, lengths: list[int], product: int) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    device, heads, channels = all.device, BENCH_HEADS, BENCH_CHANNELS
    backends = {"flash": SDPBackend.FLASH_ATTENTION} | ({"cudnn": SDPBackend.CUDNN_ATTENTION} if device.type == "cuda" else {})

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(torch.bfloat16)

    def prepared(function: Callable[..., Tensor], length: int, backward: bool) -> Callable[[], None]:
        inputs = [random(1, length, heads, channels).requires_grad_() for _ in range(3)]
        return once(function, inputs, random(1, length, heads, channels), backward)

    def products() -> Callable[[], Tensor]:
        a, b = random(product, product), random(product, product)
        return lambda: torch.matmul(a, b)

    all.add("product bfloat16", products, flops=2.0 * product**3, length=product)
    for length in lengths:
        # As the schedule is capped: a segment cannot be longer than the sequence.
        pairs = [(min(segment, length), rate) for segment, rate in zip(BENCH_SEGMENTS, BENCH_RATES)]
        flops = sum(2.0 * heads * channels * (length // segment) * (segment // rate) * (segment // rate + 1) for segment, rate in pairs)
        whole = 2.0 * heads * channels * length * (length + 1)  # two products over half of all pairs and the diagonal; backward has five
        for backward in (False, True):
            name, factor = ("forward and backward", 3.5) if backward else ("forward", 1.0)
            all.add(f"dilated {name}", lambda: prepared(lambda q, k, v: dilated(q, k, v, BENCH_SEGMENTS, BENCH_RATES), length, backward),
                    flops=flops * factor, length=length)
            for backend, kernel in backends.items():
                def attention(q: Tensor, k: Tensor, v: Tensor, kernel: SDPBackend = kernel) -> Tensor:
                    with sdpa_kernel(kernel):
                        return dense(q, k, v)

                all.add(f"dense {backend} {name}", lambda: prepared(attention, length, backward), flops=whole * factor, length=length)


def longnet(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return dilated(q, k, v, SEGMENTS, RATES)


def measure_step(all: Measurements, lengths: list[int], compiled: bool) -> None:
    how = "compiled" if compiled else "eager"
    longest = max(lengths)
    all.add(f"step, dilated, {how}", lambda: training_step(longnet, longest, 1, all.device, compiled), length=longest, batch=1, tokens=longest)
    if compiled:
        return
    all.add(f"step, dilated, {how}, 2 sequences", lambda: training_step(longnet, longest, 2, all.device, compiled), length=longest, batch=2, tokens=2 * longest)
    for length in lengths:
        all.add(f"step, dense, {how}", lambda: training_step(dense, length, 1, all.device, compiled), length=length, batch=1, tokens=length)


def measure_compiled(all: Measurements, arguments: argparse.Namespace) -> None:
    """In a process of its own, as compiling may not end in time."""
    left, out = all.end - time.monotonic(), (arguments.out or "peer") + ".compiled"
    row: dict = {"what": "step, dilated, compiled", "length": max(arguments.step_lengths), "error": "no time was left"}
    if left > 15:
        command = [sys.executable, "-u", os.path.abspath(__file__), "step", "--compiled", "--device", arguments.device, "--out", out,
                   "--step-lengths", ",".join(map(str, arguments.step_lengths))]
        try:
            done = subprocess.run(command, timeout=left, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            with open(out, encoding="utf-8") as file:
                row = json.load(file)["results"][0]
            os.remove(out)
        except subprocess.TimeoutExpired:
            row["error"] = f"not compiled and measured within {left:.0f} s"
        except (OSError, ValueError):
            row["error"] = "the process ended: " + done.stderr.strip().split("\n")[-1][:250]
    all.results.append(row)
    print(json.dumps(row), flush=True)
    all.write()


def main(arguments: argparse.Namespace) -> int:
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(f"PyTorch {torch.__version__} finds no CUDA device")
        return 77
    all = Measurements(arguments.device, arguments.seconds, arguments.out)
    if arguments.command != "step":
        error = largest_error(all.device)
        all.about["largest_error"] = error
        if error > 0.06:  # bfloat16 has 8 bits, and values are up to 4
            print(f"dilated attention differs by {error} from its definition")
            return 1
    if arguments.command != "attention":
        measure_step(all, arguments.step_lengths, arguments.compiled)
    if arguments.command != "step":
        measure_attention(all, arguments.lengths, arguments.product)
    if arguments.command == "all":
        measure_compiled(all, arguments)
    good = [row for row in all.results if "error" not in row]
    told = [f"{row['what']} at {row['length']}: {row['ms']:.1f} ms" for row in good if row["what"].startswith("step")]
    told += [f"{row['what']} at {row['length']}: {row['ms']:.2f} ms" for row in good if row["what"].startswith("dilated") and "backward" in row["what"]]
    print(f"{len(good)} of {len(all.results)} measured; " + "; ".join(told))
    return 0 if good else 1


def numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("all", "attention", "step"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--lengths", type=numbers, default=[8192, 32768, 131072], help="of attention alone")
    parser.add_argument("--step-lengths", type=numbers, default=[8192, LENGTH], help="of training steps; dilated attention takes the longest")
    parser.add_argument("--product", type=int, default=8192, help="size of the matrices")
    parser.add_argument("--compiled", action="store_true", help="step: only the compiled one")
    parser.add_argument("--seconds", type=float, default=1e9, help="nothing more is begun after these")
    parser.add_argument("--out", help="JSON file")
    sys.exit(main(parser.parse_args()))
