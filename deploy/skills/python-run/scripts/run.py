"""Runs a piece of Python in a process of its own, with limits. Standard library only. Not a sandbox."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time


def fail(message, code=2):
    """Ends with a sentence on standard error and the same as JSON on standard output."""
    json.dump({"error": message}, sys.stdout, ensure_ascii=False)
    print(f"python-run: {message}", file=sys.stderr)
    sys.exit(code)


def request(allowed):
    """The input as a JSON object with none but the allowed keys."""
    try:
        value = json.loads(sys.stdin.buffer.read().decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        fail(f"the input is not JSON: {error}")
    if not isinstance(value, dict):
        fail("the input must be a JSON object")
    unknown = sorted(set(value) - set(allowed))
    if unknown:
        fail(f"unknown keys {', '.join(unknown)}; known are {', '.join(sorted(allowed))}")
    return value


def number(given, key, default, low, high):
    """A number within its range."""
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        fail(f"{key} must be a number from {low} to {high}")
    return value


def text(given, key, default=None):
    """A text; without a default it must be there and not be empty."""
    value = given.get(key, default)
    if not isinstance(value, str) or (default is None and not value):
        fail(f"{key} must be a text")
    return value


def answer(value):
    """The result; figures that JSON has no notation for are a mistake of ours."""
    json.dump(value, sys.stdout, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def limits(memory_mib, seconds):
    """What the system itself holds the process to; where there is no such module (Windows), only time and output are limited."""
    try:
        import resource
    except ImportError:
        return None

    def apply():
        os.setsid()
        for kind, most in ((resource.RLIMIT_AS, memory_mib << 20), (resource.RLIMIT_CPU, int(seconds) + 1), (resource.RLIMIT_FSIZE, 64 << 20)):
            _, hard = resource.getrlimit(kind)
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            try:
                resource.setrlimit(kind, (most, most))
            except (OSError, ValueError):
                pass  # macOS knows some of them by name only

    return apply


def drain(pipe, kept, most):
    """Reads to the end and keeps the beginning: a process that writes without end must not fill this one's memory."""
    total = 0
    while chunk := pipe.read1(65536):
        kept.extend(chunk[: max(0, most - total)])
        total += len(chunk)
    kept.append_total = total


class Kept(bytearray):
    append_total = 0


def kill(process):
    """The process and what it started."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass


def main():
    given = request({"code", "stdin", "args", "timeout", "memory_mib", "max_output"})
    code = text(given, "code")
    stdin = text(given, "stdin", "")
    args = given.get("args", [])
    if not isinstance(args, list) or not all(isinstance(a, str) and "\0" not in a for a in args):
        fail("args must be a list of texts")
    seconds = number(given, "timeout", 10, 0.1, 300)
    memory = int(number(given, "memory_mib", 512, 32, 65536))
    most = int(number(given, "max_output", 65536, 0, 1 << 20))
    with tempfile.TemporaryDirectory(prefix="python-run-", dir=os.environ.get("CLAWMESH_DIR")) as scratch:
        script = os.path.join(scratch, "code.py")
        with open(script, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(code)
        begin = time.monotonic()
        # -I: neither this folder nor the user's own packages; the modules that come with Python, and nothing else by accident.
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", script, *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=scratch, preexec_fn=limits(memory, seconds),
        )
        out, err = Kept(), Kept()
        readers = [threading.Thread(target=drain, args=(pipe, kept, most), daemon=True) for pipe, kept in ((process.stdout, out), (process.stderr, err))]

        def feed():
            try:
                process.stdin.write(stdin.encode("utf-8", "surrogatepass"))
                process.stdin.close()
            except OSError:
                pass  # it need not read its input

        writer = threading.Thread(target=feed, daemon=True)
        for thread in (*readers, writer):
            thread.start()
        timed_out = False
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            timed_out = True
        # What it left behind holds the pipes open and is ended with it.
        kill(process)
        process.wait()
        for thread in readers:
            thread.join(5)
        answer({
            "exit_code": None if timed_out else process.returncode,
            "timed_out": timed_out,
            "stdout": out.decode("utf-8", "replace"),
            "stderr": err.decode("utf-8", "replace"),
            "stdout_bytes": out.append_total,
            "stderr_bytes": err.append_total,
            "truncated": out.append_total > len(out) or err.append_total > len(err),
            "seconds": round(time.monotonic() - begin, 3),
        })


if __name__ == "__main__":
    main()
