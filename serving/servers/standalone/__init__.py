"""An HTTP/1.1 server for the handler alone: `python -m serving.servers.standalone`.

    workers     starts a process for each worker, replaces those that end, and ends all
    loop        one thread of a worker: accepts, receives, keeps the time
    connection  one client: its requests in their order, their answers
    reading     bytes into requests, by httptools
    answering   which thread answers
    sharing     which requests share runs of the model, with dynamic batching
    http1       targets, fields and heads of HTTP/1.1

Why not a server that exists: WSGI servers read a body in the thread that answers, without a bound on the time, and give
X_Field the name of X-Field; ASGI servers hand each request over to other threads. A handover takes as long as a small
model: answering in the thread that receives takes 0.72 of the CPU time at eight connections (bench/handover.py, an MLP
64→128→10, native codec; two cores that others used as well).
"""
