"""Finds files below a directory by name, content, size or age. Standard library only; reads, and changes nothing."""
import fnmatch
import json
import os
import stat
import sys
import time


def fail(message, code=2):
    """Ends with a sentence on standard error and the same as JSON on standard output."""
    json.dump({"error": message}, sys.stdout, ensure_ascii=False)
    print(f"file-search: {message}", file=sys.stderr)
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


VISITED_MAX = 1_000_000
CONTENT_MAX = 8 << 20
LINE_MAX = 200


def first_line_with(path, words):
    """The number and the text of the first line that holds the words; none when there is no such line, or it is no text."""
    try:
        with open(path, "rb") as file:
            data = file.read(CONTENT_MAX)
    except OSError:
        return None
    if b"\0" in data[:4096]:
        return None
    for n, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if words in line.casefold():
            return {"line": n, "text": line.strip()[:LINE_MAX]}
    return None


def main():
    given = request({"root", "name", "contains", "min_bytes", "max_bytes", "newer_than_days", "hidden", "max_depth", "max_results", "timeout"})
    root = text(given, "root")
    if not os.path.isabs(root):
        fail("root must be an absolute path: the skill runs in a directory of its own")
    if not os.path.isdir(root):
        fail(f"there is no directory '{root}' on this node")
    if not os.access(root, os.R_OK | os.X_OK):
        fail(f"'{root}' may not be read by the node's user")
    name, words = text(given, "name", "*"), text(given, "contains", "").casefold()
    least, most = number(given, "min_bytes", 0, 0, 1 << 60), number(given, "max_bytes", 1 << 60, 0, 1 << 60)
    newest = time.time() - 86400 * number(given, "newer_than_days", 36500, 0, 36500)
    hidden = given.get("hidden", False) is True
    depth, results = int(number(given, "max_depth", 20, 0, 200)), int(number(given, "max_results", 100, 1, 10_000))
    end = time.monotonic() + number(given, "timeout", 30, 0.1, 600)
    # Links are never followed, so nothing outside the root is read, and nothing twice.
    root = os.path.realpath(root)
    matches, visited, unreadable, stopped = [], 0, 0, ""
    waiting = [(root, 0)]
    while waiting and not stopped:
        folder, level = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda e: e.name)
        except OSError:
            unreadable += 1
            continue
        below = []
        for entry in entries:
            visited += 1
            if visited > VISITED_MAX or time.monotonic() > end:
                stopped = "too many entries" if visited > VISITED_MAX else "out of time"
                break
            if entry.name.startswith(".") and not hidden:
                continue
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError:
                unreadable += 1
                continue
            if stat.S_ISDIR(info.st_mode):
                if level < depth:
                    below.append((entry.path, level + 1))
                continue
            # Pipes and devices would hold a reader for ever.
            if not stat.S_ISREG(info.st_mode) or not fnmatch.fnmatch(entry.name.casefold(), name.casefold()):
                continue
            if not least <= info.st_size <= most or info.st_mtime < newest:
                continue
            found = first_line_with(entry.path, words) if words else {}
            if found is None:
                continue
            shown = os.path.relpath(entry.path, root).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            modified = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(info.st_mtime))
            matches.append({"path": shown, "bytes": info.st_size, "modified": modified, **({"match": found} if words else {})})
            if len(matches) >= results:
                stopped = "enough results"
                break
        waiting.extend(reversed(below))
    answer({"root": root, "matches": matches, "visited": visited, "unreadable": unreadable, "complete": not stopped, "stopped": stopped})


if __name__ == "__main__":
    main()
