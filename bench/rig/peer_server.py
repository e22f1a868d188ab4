"""llama-server for comparison. It has an environment of its own, so it imports nothing of AIOS.

``peer_server.py '{"model": …, "seats": …, "context": …, "threads": …, "kv": null | "q8_0/f16",
"unified": false}'`` prints its address as one line of JSON and serves until standard input closes.
"""

import json
import sys

import xllamacpp as xlc  # type: ignore[import-not-found]


def main() -> None:
    """Serve with llama-server's defaults, except for the settings that both sides share."""
    wanted = json.loads(sys.argv[1])
    params = xlc.CommonParams()
    params.model.path = wanted["model"]
    params.n_parallel = wanted["seats"]
    params.n_ctx = wanted["context"] * wanted["seats"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = wanted["threads"]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    if wanted["unified"]:
        params.kv_unified = True
    if wanted["kv"]:
        names = wanted["kv"].upper().split("/")
        types = [getattr(xlc.ggml_type, f"GGML_TYPE_{name}") for name in names]
        params.cache_type_k, params.cache_type_v = types[0], types[-1]
        params.flash_attn_type = xlc.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    server = xlc.Server(params)
    print(json.dumps({"address": server.listening_address}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
