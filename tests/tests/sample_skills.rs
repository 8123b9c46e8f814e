//! The sample skills in `deploy/skills`, each through a real mesh, with good input and with bad.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    process::{Command, Stdio},
    thread,
};

use clawmesh_tests::{LONG, Mesh, Value, json, repository, wait_until};

/// Two nodes; the second has the skills.
fn mesh() -> Mesh {
    // Loudly, because the gate would pass over the skills in silence, and every test here would say only "unknown skill".
    let python = Command::new("python3").args(["-c", "import sys; sys.exit(sys.version_info < (3, 9))"]).stdin(Stdio::null()).status();
    assert!(
        python.is_ok_and(|s| s.success()),
        "the sample skills need python3, 3.9 or newer, which is not on the path: install it (Debian: apt-get install python3)"
    );
    let skills = repository().join("deploy/skills");
    let mesh = Mesh::of(2).node_args(1, ["--skills", skills.to_str().expect("a path in UTF-8")]).start();
    wait_until("the first node knows the skills of the other", LONG, || {
        let skills = mesh[0].get("/api/v1/skills")?;
        if ["python-run", "word-count"].iter().all(|s| skills.to_string().contains(s)) { Ok(()) } else { Err(skills.to_string()) }
    });
    mesh
}

/// What the skill prints.
#[track_caller]
fn good(mesh: &Mesh, skill: &str, input: &Value) -> Value {
    mesh[0].cli(["submit", skill, "--input", &input.to_string(), "--wait"]).ok().json()
}

/// The skill refuses: exit code, a sentence on stderr, the same as JSON on stdout.
#[track_caller]
fn bad(mesh: &Mesh, skill: &str, input: &Value, exit: i64, words: &str) {
    let said = mesh[0].cli(["--json", "submit", skill, "--input", &input.to_string(), "--wait"]).exits(1);
    let end = said.json();
    assert_eq!((&end["state"], &end["exit_code"]), (&json!("failed"), &json!(exit)), "{skill} {input}: {end}");
    let told: Value = serde_json::from_str(end["output"]["stdout"].as_str().unwrap_or_default()).unwrap_or_else(|e| panic!("{e}: {end}"));
    assert!(told["error"].as_str().is_some_and(|e| e.contains(words)), "{skill} {input}: {told}");
    assert!(end["output"]["stderr"].as_str().is_some_and(|e| e.contains(words)), "{skill} {input}: {end}");
}

/// A web server on this machine that gives one answer to all requests, and tells what was asked; it ends with the process.
fn stand_in(status: &'static str, kind: &'static str, body: Vec<u8>) -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (to, asked) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = Vec::new();
            let mut piece = [0; 1024];
            while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                match stream.read(&mut piece) {
                    Ok(n) if n > 0 => head.extend_from_slice(piece.get(..n).unwrap_or_default()),
                    _ => break,
                }
            }
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            // A client that wants only a part goes before the end.
            drop(stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(&body)));
            // Not every test wants to know.
            drop(to.send(String::from_utf8_lossy(&head).into_owned()));
        }
    });
    (addr, asked)
}

#[test]
#[ignore = "needs python3, 3.9 or newer"]
fn all_six_categories_have_a_sample() {
    let mesh = mesh();
    let skills = mesh[0].get("/api/v1/skills").expect("a list");
    let all = skills.as_array().expect("skills");
    for category in ["system", "network", "data_processing", "machine_learning", "media_processing", "other"] {
        assert!(all.iter().any(|s| s["category"] == category), "no sample skill of the category {category}");
    }
    for skill in all {
        let name = skill["name"].as_str().expect("a name");
        assert_eq!((&skill["runnable"], &skill["version"]), (&json!(true), &json!("1.0.0")), "{skill}");
        let readme = fs::read_to_string(repository().join("deploy/skills/README.md")).expect("a README");
        assert!(readme.contains(&format!("`{name}`")), "deploy/skills/README.md does not name {name}");
    }
}

#[test]
#[ignore = "needs python3, 3.9 or newer"]
fn python_run_runs_code_with_limits() {
    let mesh = mesh();
    let run = |input: Value| good(&mesh, "python-run", &input);
    let done = run(json!({ "code": "import sys; print(6 * 7, sys.stdin.read(), sys.argv[1:])", "stdin": "in", "args": ["a b"] }));
    assert_eq!((&done["stdout"], &done["exit_code"]), (&json!("42 in ['a b']\n"), &json!(0)), "{done}");
    let failed = run(json!({ "code": "raise SystemExit('no')" }));
    assert_eq!((&failed["exit_code"], &failed["stderr"]), (&json!(1), &json!("no\n")), "{failed}");
    let endless = run(json!({ "code": "while True: print('x' * 1000)", "timeout": 1, "max_output": 10 }));
    assert_eq!(
        (&endless["timed_out"], &endless["truncated"], &endless["stdout"]),
        (&json!(true), &json!(true), &json!("xxxxxxxxxx")),
        "{endless}"
    );
    // What it leaves behind is ended with it, and does not hold the answer up.
    let left = run(json!({ "code": "import subprocess; subprocess.Popen(['sleep', '3600']); print('gone')" }));
    assert_eq!(left["stdout"], "gone\n", "{left}");
    let hungry = run(json!({ "code": "x = bytearray(2 << 30)", "memory_mib": 256 }));
    assert!(hungry["stderr"].as_str().is_some_and(|e| e.contains("MemoryError")), "{hungry}");
    for (input, words) in [
        (json!({}), "code must be a text"),
        (json!({ "code": 5 }), "code must be a text"),
        (json!({ "code": "1", "timeout": 0 }), "timeout must be"),
        (json!({ "code": "1", "args": "x" }), "args must be"),
        (json!({ "code": "1", "user": "root" }), "unknown keys user"),
        (json!([1]), "must be a JSON object"),
    ] {
        bad(&mesh, "python-run", &input, 2, words);
    }
}

#[test]
#[ignore = "needs python3, 3.9 or newer"]
fn weather_asks_the_service_that_it_is_told() {
    let mesh = mesh();
    let now = json!({ "current": { "time": "2026-11-21T12:00", "temperature_2m": 17.5, "relative_humidity_2m": 70, "wind_speed_10m": 9.4, "weather_code": 3 } });
    let (service, asked) = stand_in("200 OK", "application/json", now.to_string().into_bytes());
    let url = format!("http://{service}/v1/forecast");
    let told = good(&mesh, "weather", &json!({ "latitude": 38.7, "longitude": -9.1, "url": url }));
    assert_eq!((&told["temperature_c"], &told["sky"], &told["humidity_percent"]), (&json!(17.5), &json!("overcast"), &json!(70)), "{told}");
    let request = asked.recv().expect("a request");
    assert!(request.starts_with("GET /v1/forecast?latitude=38.7&longitude=-9.1&current=temperature_2m"), "{request}");
    // By a variable of the task, and by the name of a place.
    let found = json!({ "results": [{ "name": "Lisbon", "country": "Portugal", "latitude": 38.72, "longitude": -9.14 }] });
    let (places, _names) = stand_in("200 OK", "application/json", found.to_string().into_bytes());
    let (env, other) = (format!("CLAWMESH_WEATHER_URL={url}"), format!("CLAWMESH_PLACES_URL=http://{places}/search"));
    let told =
        mesh[0].cli(["submit", "weather", "--input", "{\"place\":\"lisbon\"}", "--env", &env, "--env", &other, "--wait"]).ok().json();
    assert_eq!((&told["place"], &told["latitude"]), (&json!("Lisbon, Portugal"), &json!(38.72)), "{told}");

    let at = |url: &str| json!({ "latitude": 1, "longitude": 2, "url": url });
    let (broken, _) = stand_in("500 Oops", "text/plain", b"no".to_vec());
    bad(&mesh, "weather", &at(&format!("http://{broken}/")), 1, "status 500");
    let (odd, _) = stand_in("200 OK", "text/plain", b"<html>".to_vec());
    bad(&mesh, "weather", &at(&format!("http://{odd}/")), 1, "JSON object");
    bad(&mesh, "weather", &at("http://127.0.0.1:9/"), 1, "could not be reached");
    bad(&mesh, "weather", &at("file:///etc/passwd"), 2, "must begin with http");
    bad(&mesh, "weather", &json!({}), 2, "give place");
    bad(&mesh, "weather", &json!({ "latitude": 91, "longitude": 0, "url": url }), 2, "latitude must be");
}

#[test]
#[ignore = "needs python3, 3.9 or newer"]
fn web_fetch_has_its_caps_and_keeps_out_of_the_own_network() {
    let mesh = mesh();
    let page =
        b"<html><head><title>A  page</title><script>no()</script></head><body><p>One &amp; two</p><p>three</p></body></html>".to_vec();
    let (server, _) = stand_in("200 OK", "text/html; charset=utf-8", page);
    let url = format!("http://{server}/page?x=1");
    let got = good(&mesh, "web-fetch", &json!({ "url": url, "allow_private": true }));
    assert_eq!((&got["title"], &got["text"], &got["ok"]), (&json!("A page"), &json!("One & two\nthree"), &json!(true)), "{got}");
    let part = good(&mesh, "web-fetch", &json!({ "url": url, "allow_private": true, "raw": true, "max_bytes": 6 }));
    assert_eq!((&part["text"], &part["truncated"]), (&json!("<html>"), &json!(true)), "{part}");
    let (missing, _) = stand_in("404 Not Found", "text/plain", b"nothing".to_vec());
    let none = good(&mesh, "web-fetch", &json!({ "url": format!("http://{missing}/"), "allow_private": true }));
    assert_eq!((&none["ok"], &none["status"], &none["text"]), (&json!(false), &json!(404), &json!("nothing")), "{none}");
    for (url, words) in [
        (url.as_str(), "inside a network"),
        ("http://localhost/", "inside a network"),
        ("http://[::ffff:127.0.0.1]/", "inside a network"),
        ("http://2130706433/", "inside a network"),
        ("http://169.254.169.254/latest", "inside a network"),
        ("file:///etc/passwd", "http"),
        ("ftp://example.org/", "http"),
        ("http://host:99999/", "port"),
    ] {
        bad(&mesh, "web-fetch", &json!({ "url": url }), 2, words);
    }
    bad(&mesh, "web-fetch", &json!({ "url": url, "max_bytes": 0 }), 2, "max_bytes");
    bad(&mesh, "web-fetch", &json!({ "url": "http://127.0.0.1:9/", "allow_private": true }), 1, "could not be reached");
}

#[test]
#[ignore = "needs python3, 3.9 or newer"]
fn data_summary_summarises_tables_of_all_forms() {
    let mesh = mesh();
    let csv = "city,temp\nRome,20\nOslo,6\nRome,22\nOslo,\n";
    let told = good(&mesh, "data-summary", &json!({ "csv": csv, "group_by": "city" }));
    let temp = &told["columns"]["temp"];
    assert_eq!(
        (&told["rows"], &temp["mean"], &temp["median"], &temp["missing"]),
        (&json!(4), &json!(16.0), &json!(20.0), &json!(1)),
        "{told}"
    );
    assert_eq!((&told["groups"][1]["value"], &told["groups"][1]["means"]["temp"]), (&json!("Rome"), &json!(21.0)), "{told}");
    let told = good(&mesh, "data-summary", &json!({ "records": [{ "a": 1, "b": 2 }, { "a": 2, "b": 4 }, { "a": 3, "b": 6 }] }));
    assert_eq!(told["correlations"], json!([{ "columns": ["a", "b"], "r": 1.0 }]), "{told}");
    let told = good(&mesh, "data-summary", &json!({ "json_lines": "{\"x\": true}\n\n{\"x\": false}\n" }));
    assert_eq!((&told["columns"]["x"]["type"], &told["columns"]["x"]["true"]), (&json!("boolean"), &json!(1)), "{told}");
    for (input, words) in [
        (json!({}), "exactly one"),
        (json!({ "csv": "a,a\n1,2" }), "each name once"),
        (json!({ "csv": "a\n\"open" }), "cannot be read"),
        (json!({ "records": [1] }), "JSON objects"),
        (json!({ "json_lines": "{}\n{" }), "line 2"),
        (json!({ "csv": "a\n1", "group_by": "b" }), "no column"),
    ] {
        bad(&mesh, "data-summary", &input, 2, words);
    }
}

#[test]
#[ignore = "needs python3, 3.9 or newer"]
fn tabular_ml_learns_the_same_each_time() {
    let mesh = mesh();
    let rows = json!([[1, 1], [1, 2], [2, 1], [8, 9], [9, 8], [9, 9]]);
    let clusters = json!({ "algorithm": "k_means", "rows": rows, "k": 2, "predict": [[0, 0], [10, 10]] });
    let first = good(&mesh, "tabular-ml", &clusters);
    assert_eq!((&first["clusters"], &first["converged"]), (&json!([0, 0, 0, 1, 1, 1]), &json!(true)), "{first}");
    assert_eq!(first["predictions"], json!([0, 1]), "{first}");
    assert_eq!(good(&mesh, "tabular-ml", &clusters), first);
    for algorithm in ["naive_bayes", "logistic_regression"] {
        let learned = good(
            &mesh,
            "tabular-ml",
            &json!({ "algorithm": algorithm, "rows": rows, "labels": ["low", "low", "low", "high", "high", "high"], "predict": [[2, 2], [8, 8]] }),
        );
        let labels: Vec<&Value> = learned["predictions"].as_array().into_iter().flatten().map(|p| &p["label"]).collect();
        assert_eq!((&learned["training_accuracy"], labels), (&json!(1.0), vec![&json!("low"), &json!("high")]), "{learned}");
    }
    for (input, words) in [
        (json!({ "algorithm": "oracle" }), "there are k_means"),
        (json!({ "algorithm": "k_means", "rows": [[1], ["x"]] }), "row 2"),
        (json!({ "algorithm": "k_means", "rows": [[1, 2], [3]] }), "row 2"),
        (json!({ "algorithm": "k_means", "rows": [[1]], "k": 2 }), "k must be"),
        (json!({ "algorithm": "naive_bayes", "rows": [[1], [2]], "labels": ["a"] }), "labels"),
        (json!({ "algorithm": "naive_bayes", "rows": [[1], [2]], "labels": ["a", "a"] }), "different labels"),
    ] {
        bad(&mesh, "tabular-ml", &input, 2, words);
    }
}

#[cfg(unix)]
#[test]
#[ignore = "needs python3, 3.9 or newer"]
fn file_search_stays_below_its_root() {
    let mesh = mesh();
    let root = mesh.dir().join("searched");
    fs::create_dir_all(root.join("deep/er")).expect("a directory can be made");
    for (name, text) in
        [("a.txt", "one\nthe Needle is here\n"), ("deep/er/B.TXT", "needle"), ("c.bin", "\0needle"), (".hidden.txt", "needle")]
    {
        fs::write(root.join(name), text).expect("a file can be written");
    }
    fs::write(mesh.dir().join("outside.txt"), "needle").expect("a file can be written");
    std::os::unix::fs::symlink(mesh.dir(), root.join("up")).expect("a link can be made");
    std::os::unix::fs::symlink(mesh.dir().join("outside.txt"), root.join("out.txt")).expect("a link can be made");
    let paths = |found: &Value| -> Vec<String> {
        found["matches"].as_array().into_iter().flatten().map(|m| m["path"].as_str().expect("a path").to_owned()).collect()
    };
    let found = good(&mesh, "file-search", &json!({ "root": root, "name": "*.txt", "contains": "needle" }));
    assert_eq!((paths(&found), &found["complete"]), (vec!["a.txt".to_owned(), "deep/er/B.TXT".to_owned()], &json!(true)), "{found}");
    assert_eq!(found["matches"][0]["match"], json!({ "line": 2, "text": "the Needle is here" }), "{found}");
    let some = good(&mesh, "file-search", &json!({ "root": root, "max_results": 1 }));
    assert_eq!((paths(&some).len(), &some["complete"]), (1, &json!(false)), "{some}");
    assert_eq!(
        paths(&good(&mesh, "file-search", &json!({ "root": root, "max_depth": 0, "hidden": true, "min_bytes": 7 }))),
        ["a.txt", "c.bin"]
    );
    bad(&mesh, "file-search", &json!({ "root": "relative" }), 2, "absolute");
    bad(&mesh, "file-search", &json!({ "root": "/no/such/place" }), 2, "no directory");
    bad(&mesh, "file-search", &json!({ "root": root, "max_results": "all" }), 2, "max_results");
}

#[test]
#[ignore = "needs python3, 3.9 or newer"]
fn image_info_reads_the_usual_formats() {
    let mesh = mesh();
    for (format, width, height, base64) in [
        ("png", 3, 2, "iVBORw0KGgoAAAANSUhEUgAAAAMAAAACCAYAAACddGYaAAAAC0lEQVR4nGNgwAUAABoAAbw84EEAAAAASUVORK5CYII="),
        ("gif", 1, 1, "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"),
        ("webp", 1, 1, "UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA"),
        // The parts up to the size, which is all that is read.
        ("jpeg", 320, 200, "/9j/4AAQSkZJRgABAQAAAQABAAD/wAARCADIAUADASIAAhEBAxEB"),
    ] {
        let told = good(&mesh, "image-info", &json!({ "base64": base64 }));
        assert_eq!((&told["format"], &told["width"], &told["height"]), (&json!(format), &json!(width), &json!(height)), "{told}");
    }
    let file = mesh.dir().join("picture");
    fs::write(&file, b"BM\0\0\0\0\0\0\0\0\0\0\0\0\x28\0\0\0\x05\0\0\0\xf9\xff\xff\xff\x01\0\x18\0").expect("a file can be written");
    let told = good(&mesh, "image-info", &json!({ "path": file }));
    assert_eq!(
        (&told["format"], &told["width"], &told["height"], &told["bits"]),
        (&json!("bmp"), &json!(5), &json!(7), &json!(24)),
        "{told}"
    );
    bad(&mesh, "image-info", &json!({ "base64": "/9j/4AAQ" }), 1, "ends too early");
    bad(&mesh, "image-info", &json!({ "base64": "aGVsbG8=" }), 1, "no PNG");
    bad(&mesh, "image-info", &json!({ "base64": "!!" }), 2, "base64");
    bad(&mesh, "image-info", &json!({ "path": "picture.png" }), 2, "absolute");
    bad(&mesh, "image-info", &json!({ "path": "/dev/zero" }), 2, "not a regular file");
    bad(&mesh, "image-info", &json!({ "path": "/a", "base64": "" }), 2, "give path");
}
