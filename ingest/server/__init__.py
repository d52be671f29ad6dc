"""The HTTP server: uvicorn, sockets, graceful shutdown, worker processes."""
