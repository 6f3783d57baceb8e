"""Tagging over HTTP: a front that takes requests, and replicas that tag, in this process or on Ray Serve.

settings.py     what a server is told: addresses, replicas, limits
contract.py     what a request may be, what is answered, the OpenAPI
app.py          routes, token, limits of a request (Starlette)
batching.py     texts of several requests are tagged together
live.py         a tagger that follows its export
in_process.py   replicas: this process; deployment.py: Ray Serve
server.py       the HTTP server: slow clients, draining
page.html       the page, without anything from elsewhere
"""
