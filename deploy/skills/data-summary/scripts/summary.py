"""What is in a table: types, ranges, means, frequent values, correlations. Standard library only."""
import csv
import io
import json
import math
import statistics
import sys


def fail(message, code=2):
    """Ends with a sentence on standard error and the same as JSON on standard output."""
    json.dump({"error": message}, sys.stdout, ensure_ascii=False)
    print(f"data-summary: {message}", file=sys.stderr)
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


ROWS_MAX = 1_000_000
COLUMNS_MAX = 200
TOP = 5


def rows_of(given):
    """-> names of the columns in their order, rows as dicts"""
    sources = [k for k in ("csv", "records", "json_lines") if k in given]
    if len(sources) != 1:
        fail("give exactly one of csv (a text), records (a list of objects) and json_lines (a text)")
    if sources[0] == "csv":
        separator = text(given, "delimiter", ",")
        if len(separator) != 1:
            fail("delimiter must be one character")
        csv.field_size_limit(1 << 20)
        try:
            reader = csv.DictReader(io.StringIO(text(given, "csv")), delimiter=separator, restkey="", strict=True)
            names = reader.fieldnames or []
            rows = [{k: v for k, v in row.items() if k} for row in reader]
        except (csv.Error, TypeError) as error:
            fail(f"the csv cannot be read: {error}")
        if len(set(names)) != len(names) or not all(names):
            fail("the first line of the csv must name each column, each name once")
        return names, rows
    if sources[0] == "records":
        rows = given["records"]
    else:
        rows = []
        for n, line in enumerate(text(given, "json_lines").splitlines(), 1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except (ValueError, RecursionError) as error:
                    fail(f"line {n} of json_lines is not JSON: {error}")
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        fail("the rows must be JSON objects")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return names, rows


def as_number(value):
    """A finite number, also one written as text; none otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number_ = float(value)
    except (ValueError, OverflowError):
        return None
    return number_ if math.isfinite(number_) else None


def missing(value):
    return value is None or (isinstance(value, str) and value.strip().lower() in ("", "na", "n/a", "nan", "null", "none"))


def rounded(value):
    return float(f"{value:.10g}")


def column(values):
    """The summary of one column."""
    there = [v for v in values if not missing(v)]
    numbers = [as_number(v) for v in there]
    summary = {"count": len(there), "missing": len(values) - len(there)}
    shown = [v if isinstance(v, str) else json.dumps(v, sort_keys=True, ensure_ascii=False) for v in there]
    counts = {}
    for v in shown:
        counts[v] = counts.get(v, 0) + 1
    summary["distinct"] = len(counts)
    if there and all(isinstance(v, bool) or str(v).strip().lower() in ("true", "false") for v in there):
        summary |= {"type": "boolean", "true": sum(str(v).strip().lower() == "true" for v in there)}
    elif there and all(n is not None for n in numbers):
        whole = all(n.is_integer() for n in numbers)
        quartiles = statistics.quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else numbers * 3
        summary |= {
            "type": "integer" if whole else "number", "min": rounded(min(numbers)), "max": rounded(max(numbers)), "sum": rounded(math.fsum(numbers)),
            "mean": rounded(math.fsum(numbers) / len(numbers)), "median": rounded(quartiles[1]), "q1": rounded(quartiles[0]), "q3": rounded(quartiles[2]),
            "stdev": rounded(statistics.stdev(numbers)) if len(numbers) > 1 else 0.0,
        }
        spread = quartiles[2] - quartiles[0]
        summary["outliers"] = sum(n < quartiles[0] - 1.5 * spread or n > quartiles[2] + 1.5 * spread for n in numbers)
    elif there:
        lengths = [len(v) for v in shown]
        summary |= {"type": "text", "shortest": min(lengths), "longest": max(lengths)}
    else:
        summary["type"] = "empty"
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:TOP]
    summary["top"] = [{"value": v[:100], "count": n} for v, n in top]
    return summary


def correlation(pairs):
    """Pearson's, or none where one side does not vary."""
    if len(pairs) < 3:
        return None
    xs, ys = zip(*pairs)
    mean_x, mean_y = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    spread = math.sqrt(math.fsum((x - mean_x) ** 2 for x in xs)) * math.sqrt(math.fsum((y - mean_y) ** 2 for y in ys))
    if not spread or not math.isfinite(spread):
        return None
    return round(max(-1.0, min(1.0, math.fsum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread)), 6)


def main():
    given = request({"csv", "delimiter", "records", "json_lines", "group_by"})
    names, rows = rows_of(given)
    if len(rows) > ROWS_MAX or len(names) > COLUMNS_MAX:
        fail(f"{len(rows)} rows and {len(names)} columns; at most {ROWS_MAX} and {COLUMNS_MAX} are taken")
    columns = {name: column([row.get(name) for row in rows]) for name in names}
    numeric = [name for name in names if columns[name]["type"] in ("integer", "number")][:20]
    strong = []
    for i, a in enumerate(numeric):
        for b in numeric[i + 1:]:
            pairs = [(x, y) for row in rows if (x := as_number(row.get(a))) is not None and (y := as_number(row.get(b))) is not None]
            if (r := correlation(pairs)) is not None:
                strong.append({"columns": [a, b], "r": r})
    strong.sort(key=lambda c: (-abs(c["r"]), c["columns"]))
    result = {"rows": len(rows), "columns": columns, "correlations": strong[:20]}
    if "group_by" in given:
        by = text(given, "group_by")
        if by not in columns:
            fail(f"group_by names '{by}', which is no column; there are {', '.join(names)}")
        groups = {}
        for row in rows:
            groups.setdefault(str(row.get(by)), []).append(row)
        largest = sorted(groups.items(), key=lambda g: (-len(g[1]), g[0]))[:50]
        means = lambda members, name: [n for m in members if (n := as_number(m.get(name))) is not None]
        result["groups"] = [
            {"value": value, "rows": len(members), "means": {name: rounded(math.fsum(ns) / len(ns)) for name in numeric if name != by and (ns := means(members, name))}}
            for value, members in largest
        ]
        result["groups_total"] = len(groups)
    answer(result)


if __name__ == "__main__":
    try:
        main()
    except OverflowError:
        fail("the numbers are too large to be added up")
