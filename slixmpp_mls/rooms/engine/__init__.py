"""The engine of one room: its worker, and the parts that read, send, commit and recover."""
