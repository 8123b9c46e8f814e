"""The weather now at a place, from a service that answers as Open-Meteo does. Standard library only."""
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request


def fail(message, code=2):
    """Ends with a sentence on standard error and the same as JSON on standard output."""
    json.dump({"error": message}, sys.stdout, ensure_ascii=False)
    print(f"weather: {message}", file=sys.stderr)
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


# No key is needed for either; another service of the same shape is named by url, or by a variable of the task.
FORECAST = "https://api.open-meteo.com/v1/forecast"
PLACES = "https://geocoding-api.open-meteo.com/v1/search"
ANSWER_MAX = 1 << 20

# The codes of the World Meteorological Organization, as the service uses them.
SKIES = {
    0: "clear sky", 1: "mainly clear", 2: "partly cloudy", 3: "overcast", 45: "fog", 48: "rime fog",
    51: "light drizzle", 53: "drizzle", 55: "dense drizzle", 56: "light freezing drizzle", 57: "freezing drizzle",
    61: "light rain", 63: "rain", 65: "heavy rain", 66: "light freezing rain", 67: "freezing rain",
    71: "light snow", 73: "snow", 75: "heavy snow", 77: "snow grains", 80: "light showers", 81: "showers", 82: "violent showers",
    85: "light snow showers", 86: "snow showers", 95: "thunderstorm", 96: "thunderstorm with hail", 99: "thunderstorm with heavy hail",
}


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """The address was chosen by a person; where it points to was not."""

    def redirect_request(self, *_):
        return None


def service(given, key, variable, default):
    """An address by the input, by a variable of the task, or the usual one."""
    address = text(given, key, "") or os.environ.get(variable, "") or default
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        fail(f"{key} must begin with http:// or https://")
    return address


def ask(address, query, seconds):
    """The JSON object that the service answers with."""
    address += ("&" if urllib.parse.urlsplit(address).query else "?") + urllib.parse.urlencode(query)
    opener = urllib.request.build_opener(NoRedirects)
    try:
        wanted = urllib.request.Request(address, headers={"User-Agent": "clawmesh-weather/1.0", "Accept": "application/json"})
        with opener.open(wanted, timeout=seconds) as reply:
            body = reply.read(ANSWER_MAX + 1)
    except urllib.error.HTTPError as error:
        fail(f"the weather service answered with status {error.code}", 1)
    except (OSError, ValueError) as error:
        fail(f"the weather service could not be reached: {getattr(error, 'reason', error)}", 1)
    if len(body) > ANSWER_MAX:
        fail(f"the weather service answered with more than {ANSWER_MAX} bytes", 1)
    try:
        value = json.loads(body)
    except (UnicodeDecodeError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        fail("the weather service did not answer with a JSON object", 1)
    return value


def find(name, given, seconds):
    """Latitude, longitude and the full name of a place."""
    found = ask(service(given, "places_url", "CLAWMESH_PLACES_URL", PLACES), {"name": name, "count": 1, "format": "json"}, seconds)
    results = found.get("results")
    first = results[0] if isinstance(results, list) and results else None
    if not isinstance(first, dict):
        fail(f"no place is called '{name}'", 1)
    try:
        full = ", ".join(str(first[k]) for k in ("name", "admin1", "country") if first.get(k))
        return float(first["latitude"]), float(first["longitude"]), full
    except (KeyError, TypeError, ValueError):
        fail("the weather service gave a place without coordinates", 1)


def main():
    given = request({"place", "latitude", "longitude", "url", "places_url", "timeout"})
    seconds = number(given, "timeout", 10, 0.1, 60)
    if "latitude" in given or "longitude" in given:
        place = text(given, "place", "")
        latitude, longitude = number(given, "latitude", None, -90, 90), number(given, "longitude", None, -180, 180)
    elif "place" in given:
        latitude, longitude, place = find(text(given, "place"), given, seconds)
    else:
        fail("give place, or latitude and longitude")
    fields = "temperature_2m,relative_humidity_2m,wind_speed_10m,weather_code"
    address = service(given, "url", "CLAWMESH_WEATHER_URL", FORECAST)
    now = ask(address, {"latitude": latitude, "longitude": longitude, "current": fields, "timezone": "UTC"}, seconds).get("current")
    if not isinstance(now, dict) or not isinstance(now.get("temperature_2m"), (int, float)):
        fail("the weather service told no temperature", 1)
    code = now.get("weather_code")
    answer({
        "place": place, "latitude": latitude, "longitude": longitude,
        "temperature_c": now["temperature_2m"], "humidity_percent": now.get("relative_humidity_2m"), "wind_kmh": now.get("wind_speed_10m"),
        "sky": SKIES.get(code, "unknown") if isinstance(code, int) else "unknown", "time_utc": now.get("time"),
        "source": urllib.parse.urlsplit(address).netloc.rpartition("@")[2],
    })


if __name__ == "__main__":
    main()
