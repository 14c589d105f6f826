"""An HTTP/1.1 server for the handler alone: `python -m serving.servers.standalone`.

    workers     starts a process for each worker, replaces those that end, and ends all
    loop        one thread of a worker: accepts, receives, checks deadlines
    connection  one client: its requests in their order, their answers
    reading     parses bytes into requests, by httptools
    answering   which thread answers
    sharing     which requests share runs of the model, with dynamic batching
    http1       targets, fields and heads of HTTP/1.1

Why not an existing server: WSGI servers read a body in the thread that answers, without a limit on the time, and
confuse X_Field with X-Field; ASGI servers pass each request to other threads. That takes as long as a small model:
answering in the receiving thread takes 0.72 of the CPU time at eight connections (bench/handover.py, an MLP 64→128→10,
native codec; on two cores with other work).
"""
