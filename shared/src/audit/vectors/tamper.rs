//! I-18: whatever is done to a stored chain without its key, the verifier finds it and names the first entry that is not what was chained.

use super::{ADMIN_CHAIN, Chain, KEY_CHAIN, administered, completed, gap, refused};
use crate::audit::chain::{Broken, ChainKey, Entry, Fault, Hash, Verifier, head_seal};
use crate::audit::record::Record;
use crate::clock::Timestamp;
use crate::secret::Key256;

const LENGTH: u64 = 20;

/// A chain as rows: what somebody with write access to the store could change.
#[derive(Clone)]
struct Rows {
    genesis: Vec<u8>,
    genesis_hash: Hash,
    entries: Vec<(Entry, Hash)>,
    head: (u64, Hash, Hash),
}

impl Rows {
    fn verify(&self, key: &ChainKey) -> Result<u64, Broken> {
        let mut verifier = Verifier::start(key, KEY_CHAIN, &self.genesis, &self.genesis_hash)?;
        for (entry, hash) in &self.entries {
            verifier.next(entry, hash)?;
        }
        verifier.finish(self.head.0, &self.head.1, &self.head.2)
    }
}

fn chain() -> (ChainKey, Rows) {
    let records = (0..LENGTH).map(|index| match index % 3 {
        0 => Record::Request(Box::new(completed())),
        1 => Record::Request(Box::new(refused())),
        _ => Record::Gap(gap()),
    });
    let chain = Chain::build(KEY_CHAIN, [0x77; 32], records.collect());
    let rows = Rows {
        genesis: chain.genesis.encode(),
        genesis_hash: chain.genesis_hash,
        entries: chain.entries,
        head: chain.head,
    };
    (chain.key, rows)
}

fn flip(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8] ^= 1 << (bit % 8);
}

#[test]
fn an_untouched_chain_holds_to_its_head() {
    let (key, rows) = chain();
    assert_eq!(rows.verify(&key), Ok(LENGTH));
}

#[test]
fn i_18_any_flipped_bit_of_an_entry_names_that_entry() {
    let (key, rows) = chain();
    for (index, (entry, _)) in rows.entries.iter().enumerate() {
        let bad = index as u64 + 1;
        // Every byte of every record, one bit of it that varies with the position; and every bit of what surrounds the record.
        for byte in 0..entry.record.len() {
            let mut changed = rows.clone();
            flip(&mut changed.entries[index].0.record, byte * 8 + (byte + index) % 8);
            assert_eq!(changed.verify(&key).unwrap_err().seq, bad, "record byte {byte}");
        }
        for bit in 0..256 {
            let mut changed = rows.clone();
            flip(&mut changed.entries[index].1, bit);
            assert_eq!(changed.verify(&key), Err(Broken { seq: bad, fault: Fault::Hash }), "hash bit {bit}");
        }
        for bit in 0..64 {
            let mut changed = rows.clone();
            let t_cp = entry.t_cp.nanos() ^ (1 << bit);
            changed.entries[index].0.t_cp = Timestamp::from_nanos(t_cp);
            assert_eq!(changed.verify(&key).unwrap_err().seq, bad, "t_cp bit {bit}");
            let mut changed = rows.clone();
            changed.entries[index].0.seq ^= 1 << bit;
            assert!(changed.verify(&key).unwrap_err().seq <= bad, "seq bit {bit}");
        }
        for bit in 0..32 {
            let mut changed = rows.clone();
            changed.entries[index].0.key_epoch ^= 1 << bit;
            assert_eq!(changed.verify(&key).unwrap_err().seq, bad, "key epoch bit {bit}");
        }
    }
}

#[test]
fn i_18_any_flipped_bit_of_the_genesis_or_the_head_is_found() {
    let (key, rows) = chain();
    for bit in 0..rows.genesis.len() * 8 {
        let mut changed = rows.clone();
        flip(&mut changed.genesis, bit);
        assert_eq!(changed.verify(&key).unwrap_err().seq, 0, "genesis bit {bit}");
    }
    for bit in 0..256 {
        let mut changed = rows.clone();
        flip(&mut changed.genesis_hash, bit);
        assert_eq!(changed.verify(&key), Err(Broken { seq: 0, fault: Fault::Hash }));
        let mut changed = rows.clone();
        flip(&mut changed.head.1, bit);
        assert_eq!(changed.verify(&key).unwrap_err().fault, Fault::Head);
        let mut changed = rows.clone();
        flip(&mut changed.head.2, bit);
        assert_eq!(changed.verify(&key).unwrap_err().fault, Fault::Head);
    }
    for bit in 0..64 {
        let mut changed = rows.clone();
        changed.head.0 ^= 1 << bit;
        assert_eq!(changed.verify(&key).unwrap_err().fault, Fault::Head);
    }
}

#[test]
fn i_18_deleted_doubled_swapped_and_inserted_entries_are_named() {
    let (key, rows) = chain();
    for index in 0..rows.entries.len() {
        let seq = index as u64 + 1;
        let mut changed = rows.clone();
        changed.entries.remove(index);
        assert_eq!(changed.verify(&key), Err(Broken { seq, fault: Fault::Missing }), "deleted {seq}");

        let mut changed = rows.clone();
        changed.entries.insert(index, rows.entries[index].clone());
        assert_eq!(changed.verify(&key), Err(Broken { seq, fault: Fault::Twice }), "doubled {seq}");

        if index > 0 {
            let mut changed = rows.clone();
            changed.entries.swap(index - 1, index);
            assert_eq!(changed.verify(&key).unwrap_err().seq, seq - 1, "rows {} and {seq} swapped", seq - 1);
            let mut changed = rows.clone();
            let earlier = changed.entries[index - 1].0.record.clone();
            changed.entries[index - 1].0.record = changed.entries[index].0.record.clone();
            changed.entries[index].0.record = earlier;
            assert_eq!(changed.verify(&key).unwrap_err(), Broken { seq: seq - 1, fault: Fault::Hash });
        }

        // An entry of the forger's own, renumbered into place, under a key of the forger's own.
        let forger = ChainKey::derive(&Key256::new([0x66; 32]), KEY_CHAIN, 0);
        let mut changed = rows.clone();
        let mut forged = changed.entries[index].0.clone();
        forged.record = refused().encode();
        let before = if index == 0 { rows.genesis_hash } else { rows.entries[index - 1].1 };
        let hash = forged.hash(&forger, KEY_CHAIN, &before);
        changed.entries.insert(index, (forged, hash));
        for later in &mut changed.entries[index + 1..] {
            later.0.seq += 1;
        }
        assert_eq!(changed.verify(&key), Err(Broken { seq, fault: Fault::Hash }), "inserted before {seq}");
    }
}

#[test]
fn i_18_a_truncated_or_extended_chain_does_not_reach_its_sealed_head() {
    let (key, rows) = chain();
    for kept in 0..rows.entries.len() {
        let mut changed = rows.clone();
        changed.entries.truncate(kept);
        let seq = kept as u64 + 1;
        assert_eq!(changed.verify(&key), Err(Broken { seq, fault: Fault::Missing }), "truncated to {kept}");
        // Moving the head back as well needs a seal for it, which needs the key.
        changed.head.0 = kept as u64;
        changed.head.1 = if kept == 0 { rows.genesis_hash } else { rows.entries[kept - 1].1 };
        assert_eq!(changed.verify(&key).unwrap_err().fault, Fault::Head, "head moved back to {kept}");
    }
    let mut changed = rows.clone();
    let last = &rows.entries[19];
    let next = Entry { seq: LENGTH + 1, ..last.0.clone() };
    let hash = next.hash(&key, KEY_CHAIN, &last.1);
    changed.entries.push((next, hash));
    assert_eq!(changed.verify(&key), Err(Broken { seq: LENGTH + 1, fault: Fault::AfterHead }));
}

#[test]
fn i_18_entries_do_not_move_between_chains() {
    let (key, rows) = chain();
    let other = Chain::build(ADMIN_CHAIN, [0; 32], vec![Record::Admin(administered())]);
    let mut changed = rows.clone();
    changed.entries[0] = other.entries[0].clone();
    assert_eq!(changed.verify(&key), Err(Broken { seq: 1, fault: Fault::Hash }));
    let mut changed = rows.clone();
    (changed.genesis, changed.genesis_hash) = (other.genesis.encode(), other.genesis_hash);
    assert_eq!(changed.verify(&key).unwrap_err().seq, 0);
    assert_ne!(head_seal(&key, KEY_CHAIN, 1, &[0; 32]), head_seal(&key, ADMIN_CHAIN, 1, &[0; 32]));
}

#[test]
fn a_record_of_another_chain_or_an_earlier_time_is_refused_even_when_its_hash_holds() {
    let (key, rows) = chain();
    let start = || Verifier::start(&key, KEY_CHAIN, &rows.genesis, &rows.genesis_hash).unwrap();
    let link = |entry: Entry| {
        let hash = entry.hash(&key, KEY_CHAIN, &rows.genesis_hash);
        start().next(&entry, &hash)
    };
    let good = rows.entries[0].0.clone();
    let foreign = Entry { record: administered().encode(), ..good.clone() };
    assert_eq!(link(foreign), Err(Broken { seq: 1, fault: Fault::Record }));
    let unreadable = Entry { record: b"KFN9".to_vec(), ..good.clone() };
    assert_eq!(link(unreadable), Err(Broken { seq: 1, fault: Fault::Record }));
    let early = Entry { t_cp: Timestamp::from_nanos(1), ..good };
    assert_eq!(link(early), Err(Broken { seq: 1, fault: Fault::Time }));
}
