#!/usr/bin/env python3
"""A model with fixed rules behind the API of OpenAI, so that a real OpenClaw agent runs without any network and does the same every time.

Usage: model.py [LOG.jsonl]      (listens on a free port of 127.0.0.1; prints "ready PORT")

Each line `TOOL: NAME {JSON}` of the user's request is one call of that tool, one after the other; `@ID` in the JSON stands for the
first id of a mesh's task in the result before. When all are done, the answer is `RESULT: ` and the last result. Without such a line
it is `ECHO: ` and the request. A tool that the agent does not offer ends the turn with `NO TOOL: ` and the names of those that it does.
"""
import http.server
import json
import re
import sys

LOG = open(sys.argv[1], "a", encoding="utf-8") if len(sys.argv) > 1 else None


def text_of(message):
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def answer(body):
    """The assistant's next message."""
    messages = body.get("messages", [])
    own = [t for m in messages if m.get("role") == "user" and "OPENCLAW_INTERNAL_CONTEXT" not in (t := text_of(m))]
    request = own[-1] if own else ""
    # OpenClaw puts a date before the first line of a request.
    calls = re.findall(r"^(?:\[[^\]]*\] )?TOOL: (\S+) (\{.*\})\s*$", request, re.M)
    results = [text_of(m) for m in messages if m.get("role") == "tool"]
    if len(results) < len(calls):
        name, arguments = calls[len(results)]
        offered = sorted(t.get("function", {}).get("name", "") for t in body.get("tools", []))
        if name not in offered:
            return {"role": "assistant", "content": f"NO TOOL: {name}; there are {', '.join(offered)}"}
        found = re.search(r"\bt[a-z0-9]{16}\b", results[-1]) if results else None
        arguments = arguments.replace("@ID", found[0] if found else "no-id")
        call = {"id": f"call_{len(results)}", "type": "function", "function": {"name": name, "arguments": arguments}}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"role": "assistant", "content": f"RESULT: {results[-1].strip()}" if results else f"ECHO: {request.strip()}"}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, kind, data):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply("application/json", json.dumps({"object": "list", "data": [{"id": "scripted", "object": "model"}]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
        message = answer(body)
        if LOG:
            LOG.write(json.dumps({"body": body, "answer": message}) + "\n")
            LOG.flush()
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        head = {"id": "scripted", "created": 0, "model": "scripted"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": finish}
            return self.reply("application/json", json.dumps(head | {"object": "chat.completion", "choices": [choice], "usage": usage}).encode())
        delta = dict(message)
        if delta.get("tool_calls"):
            delta["tool_calls"] = [call | {"index": i} for i, call in enumerate(delta["tool_calls"])]
        choices = ([{"index": 0, "delta": delta, "finish_reason": None}], [{"index": 0, "delta": {}, "finish_reason": finish}], [])
        chunks = [head | {"object": "chat.completion.chunk", "choices": c} | ({} if c else {"usage": usage}) for c in choices]
        stream = "".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n"
        self.reply("text/event-stream", stream.encode())


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print("ready", server.server_address[1], flush=True)
    server.serve_forever()
