"""An API for the tests: api_server.py PORT. Orders are read page by page, in five ways, and written.

Each request without the header `Authorization: Bearer sesame` is refused. Of the requests for pages every third is answered with
429, and every seventh with 503. What is written is kept by its `Idempotency-Key`, and is to be seen at /written.
"""

import itertools
import sys
import threading

from flask import Flask, jsonify, redirect, request

app = Flask(__name__)
app.json.sort_keys = False
lock = threading.Lock()
counter = itertools.count(1)
written = {}
jobs = {}
ORDERS = [{"id": id, "amount": id * 10} for id in range(1, 24)]


@app.before_request
def admit():
    if request.headers.get("Authorization") != "Bearer sesame":
        return jsonify(error="who are you?"), 401
    if request.path.startswith("/orders") and request.method == "GET":
        with lock:
            number = next(counter)
        if number % 7 == 0:
            return "", 503, {} if number % 49 == 0 else {"Retry-After": "0"}
        if number % 3 == 0:
            return "slowly", 429, {"Retry-After": "0"}


def page(begin, size):
    return ORDERS[begin : begin + size]


@app.get("/orders/cursor")
def by_cursor():
    begin = int(request.args.get("after", "c0")[1:])
    size = int(request.args.get("limit", 5))
    following = begin + size if begin + size < len(ORDERS) else None
    return jsonify(data={"items": page(begin, size)}, meta={"next": following and f"c{following}"})


@app.get("/orders/next")
def by_url():
    begin = int(request.args.get("begin", 0))
    following = f"/orders/next?begin={begin + 5}" if begin + 5 < len(ORDERS) else None
    return jsonify(items=page(begin, 5), next=following)


@app.get("/orders/elsewhere")
def elsewhere():
    return jsonify(items=page(0, 5), next="http://127.0.0.2:1/orders")


@app.get("/orders/same")
def same():
    return jsonify(items=page(0, 5), next="again")


@app.get("/orders/link")
def by_link():
    begin = int(request.args.get("begin", 0))
    links = ['</orders/link?begin=0>; rel="first"']
    if begin + 5 < len(ORDERS):
        links.append(f'</orders/link?begin={begin + 5}>; title="a, b"; rel="next last"')
    return jsonify(page(begin, 5)), 200, {"Link": ", ".join(links)}


@app.get("/orders/number")
def by_number():
    return jsonify(items=page((int(request.args["page"]) - 1) * 5, 5))


@app.get("/orders/offset")
def by_offset():
    return jsonify(items=page(int(request.args["offset"]), 5))


@app.get("/orders/unstable")
def unstable():
    with lock:
        return jsonify([{"id": next(counter)} for _ in range(9)])


@app.get("/orders/cycle")
def cycle():
    number = int(request.args.get("page", 1))
    following = {1: 2, 2: 3, 3: 4, 4: 2}[number]
    link = f'</orders/cycle?page={following}>; rel="next"; title="n\xe4chste"'
    return jsonify([{"id": number}]), 200, {"Link": link}


@app.get("/orders/ignore")
def ignore():
    return jsonify(items=page(0, 5))


@app.get("/orders/customers/<path:name>")
def customer(name):
    if name.startswith("unknown"):
        return jsonify(error="there is none"), 404
    if name == "bad":
        return jsonify(error="no name"), 422
    return jsonify(name=name, address={"city": "City of " + name, "zip": None}, level=len(name))


@app.post("/price")
def price():
    item = request.get_json()
    return jsonify(gross=item["net"] * 2, key=request.headers["Idempotency-Key"])


@app.get("/expired")
def expired():
    if request.args.get("page"):
        return jsonify(error="the cursor is expired"), 400
    return jsonify([{"id": 1}]), 200, {"Link": '</expired?page=2>; rel="next"'}


slow = {}


@app.post("/slow/<name>")
def start_slowly(name):
    with lock:
        state = slow.get(name)
        if state is None:
            slow[name] = "working"
    if state is not None:
        return ("", 409) if state == "working" else ("", 201)
    threading.Event().wait(2)
    slow[name] = "done"
    return "", 201


@app.get("/slow/<name>")
def count_slow(name):
    return str(int(slow.get(name) == "done"))


@app.get("/orders/mixed")
def mixed():
    return jsonify([{"id": 1}, 7, {"id": 3}])


@app.get("/moved")
def moved():
    return redirect("/orders/number?page=1")


@app.get("/html")
def html():
    return "<html>"


@app.post("/orders")
def write():
    key = request.headers.get("Idempotency-Key", "")
    body = request.get_json()
    items = body["orders"] if isinstance(body, dict) and "orders" in body else body
    items = items if isinstance(items, list) else [items]
    with lock:
        if key in written:
            return "", 200, {"Idempotency-Replayed": "true"}
        if next(counter) % 4 == 0:
            return "later", 503, {"Retry-After": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if any(item["id"] == 13 for item in items):
            return jsonify(error="13 is unlucky"), 422
        written[key] = items
    return "", 201


@app.get("/written")
def seen():
    with lock:
        return jsonify([item["id"] for items in written.values() for item in items])


@app.post("/jobs/<name>")
def start(name):
    with lock:
        jobs.setdefault(request.headers["Idempotency-Key"], [name, 0])
    return jsonify(job={"id": name}), 202


@app.get("/jobs/<name>")
def state(name):
    with lock:
        found = [job for job in jobs.values() if job[0] == name]
        for job in found:
            job[1] += 1
    return jsonify(job={"state": "done" if found and found[0][1] > 2 else "running", "count": len(found)})


@app.delete("/written")
def forget():
    with lock:
        written.clear()
    return "", 204


app.run("127.0.0.1", int(sys.argv[1]), threaded=True)
