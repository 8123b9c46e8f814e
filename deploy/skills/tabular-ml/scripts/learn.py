"""Small machine learning on a table: k-means, naive Bayes, logistic regression. Standard library only, same input, same answer."""
import json
import math
import sys


def fail(message, code=2):
    """Ends with a sentence on standard error and the same as JSON on standard output."""
    json.dump({"error": message}, sys.stdout, ensure_ascii=False)
    print(f"tabular-ml: {message}", file=sys.stderr)
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


ROWS_MAX = 20_000
FEATURES_MAX = 200
CLASSES_MAX = 50


def table(given, key, width=None):
    """A list of rows of finite numbers, all of one length."""
    rows = given.get(key)
    if not isinstance(rows, list) or not rows or len(rows) > ROWS_MAX:
        fail(f"{key} must be a list of 1 to {ROWS_MAX} rows")
    width = width or (len(rows[0]) if isinstance(rows[0], list) else 0)
    for n, row in enumerate(rows, 1):
        good = isinstance(row, list) and len(row) == width and 1 <= width <= FEATURES_MAX
        if not good or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e100 for v in row):
            fail(f"row {n} of {key} must hold {width or 'one or more'} numbers")
    return [[float(v) for v in row] for row in rows]


def labels_of(given, rows):
    labels = given.get("labels")
    if not isinstance(labels, list) or len(labels) != len(rows) or not all(isinstance(v, (str, int, bool)) for v in labels):
        fail("labels must be a list with one text or whole number for each row")
    classes = sorted(set(map(str, labels)))
    if not 2 <= len(classes) <= CLASSES_MAX:
        fail(f"there must be 2 to {CLASSES_MAX} different labels, not {len(classes)}")
    return [str(v) for v in labels], classes


def scaler(rows):
    """Columns of different units count alike: mean 0, deviation 1."""
    means = [math.fsum(c) / len(rows) for c in zip(*rows)]
    spreads = [math.sqrt(math.fsum((v - m) ** 2 for v in c) / len(rows)) or 1.0 for c, m in zip(zip(*rows), means)]
    return lambda row: [(v - m) / s for v, m, s in zip(row, means, spreads)], means, spreads


def distance(a, b):
    return math.fsum((x - y) ** 2 for x, y in zip(a, b))


def nearest(row, centres):
    return min(range(len(centres)), key=lambda i: (distance(row, centres[i]), i))


def k_means(given):
    rows = table(given, "rows")
    k = int(number(given, "k", 2, 1, min(100, len(rows))))
    scale, means, spreads = scaler(rows)
    points = [scale(r) for r in rows]
    # The first centre is the point next to the middle, each further one the point farthest from all before: no dice.
    centres = [min(points, key=lambda p: (distance(p, [0.0] * len(p)), p))]
    while len(centres) < k:
        centres.append(max(points, key=lambda p: (min(distance(p, c) for c in centres), p)))
    rounds = int(number(given, "iterations", 100, 1, 1000))
    groups, used, settled = [], 0, False
    for used in range(1, rounds + 1):
        now = [nearest(p, centres) for p in points]
        if now == groups:
            settled = True
            break
        groups = now
        for i in range(k):
            members = [p for p, g in zip(points, groups) if g == i]
            if members:
                centres[i] = [math.fsum(c) / len(members) for c in zip(*members)]
    result = {
        "algorithm": "k_means", "k": k, "clusters": groups, "sizes": [groups.count(i) for i in range(k)],
        "centres": [[round(v * s + m, 6) for v, m, s in zip(c, means, spreads)] for c in centres],
        "inertia": round(math.fsum(distance(p, centres[g]) for p, g in zip(points, groups)), 6), "iterations": used, "converged": settled,
    }
    if "predict" in given:
        result["predictions"] = [nearest(scale(r), centres) for r in table(given, "predict", len(rows[0]))]
    return result


def softmax(scores):
    top = max(scores)
    parts = [math.exp(s - top) for s in scores]
    total = math.fsum(parts)
    return [p / total for p in parts]


def naive_bayes(rows, labels, classes, _):
    """Gaussian, with a little added to each variance so that a column that never varies does no harm."""
    scale, *_ = scaler(rows)
    model = []
    for name in classes:
        members = [scale(r) for r, l in zip(rows, labels) if l == name]
        means = [math.fsum(c) / len(members) for c in zip(*members)]
        variances = [math.fsum((v - m) ** 2 for v in c) / len(members) + 1e-3 for c, m in zip(zip(*members), means)]
        model.append((math.log(len(members) / len(rows)), means, variances))

    def scores(row):
        row = scale(row)
        return softmax([prior - 0.5 * math.fsum(math.log(2 * math.pi * s) + (v - m) ** 2 / s for v, m, s in zip(row, means, variances)) for prior, means, variances in model])

    return scores


def logistic_regression(rows, labels, classes, given):
    """Multinomial, by gradient descent with a little weight decay, from zero."""
    scale, *_ = scaler(rows)
    points = [[1.0, *scale(r)] for r in rows]
    targets = [classes.index(l) for l in labels]
    rounds = int(number(given, "iterations", 300, 1, 5000))
    if rounds * len(points) * len(points[0]) * len(classes) > 200_000_000:
        fail("too much work for pure Python: fewer rows, columns, labels or iterations")
    weights = [[0.0] * len(points[0]) for _ in classes]
    rate, decay = 0.5, 1e-4
    for _ in range(rounds):
        gradient = [[decay * w for w in row] for row in weights]
        for point, target in zip(points, targets):
            for i, p in enumerate(softmax([sum(map(float.__mul__, w, point)) for w in weights])):
                error = (p - (i == target)) / len(points)
                row = gradient[i]
                for j, v in enumerate(point):
                    row[j] += error * v
        weights = [[w - rate * g for w, g in zip(ws, gs)] for ws, gs in zip(weights, gradient)]

    def scores(row):
        row = [1.0, *scale(row)]
        return softmax([sum(map(float.__mul__, w, row)) for w in weights])

    return scores


def classify(given, name, learn):
    rows = table(given, "rows")
    labels, classes = labels_of(given, rows)
    scores = learn(rows, labels, classes, given)

    def best(row):
        s = scores(row)
        return max(range(len(s)), key=lambda i: (s[i], -i)), s

    right = sum(classes[best(r)[0]] == l for r, l in zip(rows, labels))
    result = {"algorithm": name, "classes": classes, "training_accuracy": round(right / len(rows), 6)}
    if "predict" in given:
        told = [best(r) for r in table(given, "predict", len(rows[0]))]
        result["predictions"] = [{"label": classes[i], "probabilities": {c: round(p, 6) for c, p in zip(classes, s)}} for i, s in told]
    return result


def main():
    given = request({"algorithm", "rows", "labels", "predict", "k", "iterations"})
    algorithm = text(given, "algorithm")
    if algorithm == "k_means":
        return answer(k_means(given))
    learn = {"naive_bayes": naive_bayes, "logistic_regression": logistic_regression}.get(algorithm)
    if not learn:
        fail(f"there is no algorithm '{algorithm}'; there are k_means, naive_bayes and logistic_regression")
    answer(classify(given, algorithm, learn))


if __name__ == "__main__":
    main()
