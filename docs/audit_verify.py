"""Reference verifier of KeyForge's audit chains, independent of the code that writes them.

Usage: python3 audit_verify.py FILE

FILE holds the audit root and chains in the shape of audit-vectors.json. Everything is recomputed: the chain key, the genesis, each entry's
hash, the head's seal; and each record is decoded by the tables of audit-format.md, compared with its `record`, and encoded again. Prints one
line per chain. Exits with 0 when every chain holds, with 1 when one does not, and names the first entry that is not what was chained.
"""

import hashlib
import hmac
import json
import struct
import sys

GENESIS, ENTRY, HEAD = b"keyforge/audit/genesis/v1\0", b"keyforge/audit/entry/v1\0", b"keyforge/audit/head/v1\0"
COMMITMENT, CHAIN_KEY = b"keyforge/audit/kc/v1\0", b"kf/audit/chain/v1"

# One row per field: its name and its type. An integer n is n bytes as they are; u8 to u64 and i64 are big-endian; "bytes" and "text" have a u32
# length before them; {...} is a u8 that stands for a word.
WORDS = {"KFN1": {1: "completed", 2: "refused", 3: "unresolved"}, "KFA1": {1: "done", 2: "denied", 3: "failed", 4: "unknown"}}
PRIVATE = [("tag", "u16"), ("salt", 16), ("value", "bytes")]
UNCHAINED = [("node_seq", "u64"), ("chain_id", 16), ("request_id", 16), ("cost", "u64"), ("digest", 32)]
KINDS = {
    "KFN1": [
        ("deployment_id", 16), ("chain_id", 16), ("outcome", WORDS["KFN1"]), ("node_id", 16), ("boot_id", 16), ("node_seq", "u64"),
        ("request_id", 16), ("attempt", "u16"), ("period", "u32"), ("quota_epoch", "u32"), ("t_node_ns", "i64"), ("t_mono_ns", "u64"),
        ("model", "text"), ("credential_id", 16), ("status", "u16"), ("input_tokens", "u64"), ("output_tokens", "u64"),
        ("cache_read_tokens", "u64"), ("cache_write_tokens", "u64"), ("cost", "u64"), ("bound", "u64"), ("flags", "u32"),
        ("request_digest", 32), ("response_digest", 32), ("private", ("u16", PRIVATE)),
    ],
    "KFA1": [
        ("deployment_id", 16), ("chain_id", 16), ("request_id", 16), ("operator_id", 16), ("at_ns", "i64"), ("peer", "text"),
        ("method", "text"), ("target", "text"), ("outcome", WORDS["KFA1"]), ("detail", "text"),
    ],
    "KFG1": [
        ("deployment_id", 16), ("chain_id", 16), ("node_id", 16), ("boot_id", 16), ("last_seq", "u64"), ("at_ns", "i64"),
        ("charged", "u64"), ("requests", ("u32", [("request_id", 16)])),
    ],
    "KFU1": [
        ("deployment_id", 16), ("chain_id", 16), ("node_id", 16), ("boot_id", 16), ("at_ns", "i64"), ("lost_from", "u64"),
        ("lost_through", "u64"), ("records", ("u32", UNCHAINED)),
    ],
    "KFC1": [
        ("deployment_id", 16), ("chain_id", 16), ("version", "u16"), ("algorithms", 3), ("created_ns", "i64"), ("policy_digest", 32),
        ("key_epoch", "u32"), ("key_commitment", 32), ("checkpoint_key", "bytes"), ("previous_chain_id", 16), ("previous_hash", 32),
    ],
    "KFE1": [("record", "bytes"), ("seq", "u64"), ("t_cp_ns", "i64"), ("key_epoch", "u32")],
}
NUMBERS = {"u8": ">B", "u16": ">H", "u32": ">I", "u64": ">Q", "i64": ">q"}


class Broken(Exception):
    """A chain does not hold; says where and why."""


def take(data, at, kind):
    """Reads one field at `at`; returns its value and where the next one starts."""
    if isinstance(kind, int):
        if at + kind > len(data):
            raise Broken("cut short")
        return data[at : at + kind].hex(), at + kind
    if isinstance(kind, dict):
        code, at = take(data, at, "u8")
        if code not in kind:
            raise Broken(f"value {code} does not exist")
        return kind[code], at
    if isinstance(kind, tuple):
        count, at = take(data, at, kind[0])
        items = []
        for _ in range(count):
            item = []
            for _, field in kind[1]:
                value, at = take(data, at, field)
                item.append(value)
            items.append(item if len(item) > 1 else item[0])
        return items, at
    if kind in NUMBERS:
        raw, at = take(data, at, struct.calcsize(NUMBERS[kind]))
        return struct.unpack(NUMBERS[kind], bytes.fromhex(raw))[0], at
    length, at = take(data, at, "u32")
    raw, at = take(data, at, length)
    return (bytes.fromhex(raw).decode("utf-8") if kind == "text" else raw), at


def put(value, kind):
    """Writes one field."""
    if isinstance(kind, int):
        return bytes.fromhex(value)
    if isinstance(kind, dict):
        return bytes([next(code for code, word in kind.items() if word == value)])
    if isinstance(kind, tuple):
        items = [item if isinstance(item, list) else [item] for item in value]
        body = b"".join(put(part, field) for item in items for part, (_, field) in zip(item, kind[1]))
        return put(len(items), kind[0]) + body
    if kind in NUMBERS:
        return struct.pack(NUMBERS[kind], value)
    raw = value.encode("utf-8") if kind == "text" else bytes.fromhex(value)
    return put(len(raw), "u32") + raw


def decode(data):
    """Decodes any kind, and refuses what is not the one encoding of its value."""
    kind = data[:4].decode("ascii", "replace")
    if kind not in KINDS:
        raise Broken(f"unknown record kind {kind!r}")
    value, at = {"kind": kind}, 4
    for name, field in KINDS[kind]:
        value[name], at = take(data, at, field)
    if at != len(data):
        raise Broken("bytes after the end")
    if kind.encode() + b"".join(put(value[name], field) for name, field in KINDS[kind]) != data:
        raise Broken("not the canonical encoding")
    return value


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def expect(where, what, got, wanted):
    if got != wanted:
        raise Broken(f"{where}: {what} is {wanted}, but should be {got}")


def verify(root, chain):
    """Recomputes one chain; returns how many entries hold."""
    label, epoch = bytes.fromhex(chain["chain_id"]), chain["key_epoch"]
    key = mac(root, CHAIN_KEY, label, put(epoch, "u32"), b"\x01")  # the first and only block of HKDF-Expand (RFC 5869)
    commitment = hashlib.sha256(COMMITMENT + key).hexdigest()
    expect("genesis", "the chain key", key.hex(), chain.get("chain_key", key.hex()))
    genesis = decode(bytes.fromhex(chain["genesis"]))
    expect("genesis", "the chain", chain["chain_id"], genesis["chain_id"])
    expect("genesis", "the version", (1, "010100"), (genesis["version"], genesis["algorithms"]))
    expect("genesis", "the key commitment", (commitment, commitment), (genesis["key_commitment"], chain["key_commitment"]))
    last = mac(key, b"\x00", GENESIS, bytes.fromhex(chain["genesis"]))
    expect("genesis", "the hash", last.hex(), chain["genesis_hash"])
    time = genesis["created_ns"]
    for seq, stored in enumerate(chain["entries"], 1):
        where, encoding = f"entry {seq}", bytes.fromhex(stored["encoding"])
        last = mac(key, b"\x01", ENTRY, label, put(seq, "u64"), last, encoding)
        expect(where, "the hash", last.hex(), stored["hash"])
        entry = decode(encoding)
        record = decode(bytes.fromhex(entry["record"]))
        expect(where, "its place", (seq, epoch), (entry["seq"], entry["key_epoch"]))
        expect(where, "its chain", chain["chain_id"], record["chain_id"])
        expect(where, "its record", record, stored.get("record", record))
        if entry["t_cp_ns"] < time:
            raise Broken(f"{where}: its time is before that of the entry before it")
        time = entry["t_cp_ns"]
    head = chain["head"]
    expect("head", "the number of entries", head["seq"], len(chain["entries"]))
    expect("head", "the hash", last.hex(), head["hash"])
    expect("head", "the seal", mac(key, b"\x02", HEAD, label, put(head["seq"], "u64"), last).hex(), head["seal"])
    return head["seq"]


def main(path):
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)
    holds = True
    for chain in vectors["chains"]:
        try:
            count = verify(bytes.fromhex(vectors["audit_root"]), chain)
            print(f"chain_{chain['chain_id']}: {count} entries hold")
        except (Broken, ValueError) as broken:
            holds = False
            print(f"chain_{chain['chain_id']}: BROKEN: {broken}")
    return 0 if holds else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
