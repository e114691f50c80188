"""Reads answers as JSON lines, and prints what httplint finds wrong with each."""

import base64
import json
import sys

from httplint import HttpRequestLinter, HttpResponseLinter
from httplint.note import levels

# What a status means, and that the operator who asked for an answer did not say how long it may be cached.
CHOICES = {"STATUS_BAD_REQUEST", "STATUS_IM_A_TEAPOT", "FRESHNESS_HEURISTIC"}

for line in sys.stdin:
    case = json.loads(line)
    pairs = lambda headers: [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    request = HttpRequestLinter()
    request.process_request_topline(case["method"].encode(), case["url"].encode(), b"HTTP/1.1")
    request.process_headers(pairs(case["request"]))
    request.finish_content(True)
    answer = HttpResponseLinter()
    answer.request = request
    if case["method"] == "HEAD":
        answer.is_head_response = True
    answer.process_response_topline(b"HTTP/1.1", str(case["status"]).encode(), b"Reason")
    answer.process_headers(pairs(case["headers"]))
    answer.feed_content(base64.b64decode(case["body"]))
    answer.finish_content(True)
    for note in answer.notes:
        if note.level in (levels.BAD, levels.WARN) and type(note).__name__ not in CHOICES:
            print(f"{case['what']}: {type(note).__name__}: {note.summary} ({note.subject})")
