"""llama.cpp, timed: does what a line on its standard input asks for and answers with a line. tests/bench/speed/answer.rs has
the questions.

    python llama_speed.py MODEL.gguf THREADS
"""

import sys
import time

import llama_cpp as ll

CONTEXT = 512
QUIET = ll.llama_log_callback(lambda level, text, data: None)
ll.llama_log_set(QUIET, None)


class Model:
    def __init__(self, path, threads):
        self.model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        params = ll.llama_context_default_params()
        params.n_threads = params.n_threads_batch = threads
        params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT
        self.context = ll.llama_init_from_model(self.model, params)
        self.vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))

    def decode(self, first, count):
        tokens = (ll.llama_token * count)(*[i * 7919 % self.vocab for i in range(first, first + count)])
        if ll.llama_decode(self.context, ll.llama_batch_get_one(tokens, count)) != 0:
            raise SystemExit("llama_decode failed")
        ll.llama_get_logits(self.context)

    def rewind(self, position):
        ll.llama_memory_seq_rm(ll.llama_get_memory(self.context), 0, position, -1)

    def close(self):
        ll.llama_free(self.context)
        ll.llama_model_free(self.model)


def field(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def main():
    path, threads = sys.argv[1], int(sys.argv[2])
    model = Model(path, threads)
    position = 0
    for line in sys.stdin:
        what, *numbers = line.split()
        tokens = int(numbers[0]) if numbers else 0
        start = time.perf_counter()
        if what == "first":
            fresh = Model(path, threads)
            opened = time.perf_counter() - start
            fresh.decode(0, tokens)
            answer = f"{opened} {time.perf_counter() - start}"
            fresh.close()
        elif what == "prompt":
            model.rewind(0)
            start = time.perf_counter()
            model.decode(0, tokens)
            answer = f"{time.perf_counter() - start}"
            position = tokens
        elif what == "decode":
            model.rewind(position)
            start = time.perf_counter()
            for i in range(position, position + tokens):
                model.decode(i, 1)
            answer = f"{time.perf_counter() - start}"
        elif what == "memory":
            answer = f"{field('VmRSS:')} {field('RssAnon:')} {ll.llama_model_size(model.model)} 0"
        else:
            raise SystemExit(f"unknown: {line}")
        print(answer, flush=True)


try:
    main()
except (Exception, SystemExit) as why:
    print(f"error: {' '.join(str(why).split())}", flush=True)
