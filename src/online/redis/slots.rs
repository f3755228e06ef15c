//! Which primary of a cluster serves which slots.

use std::collections::BTreeMap;

use redis::Value;

use super::address::Host;

/// How many slots a cluster has.
const SLOTS: usize = 16_384;

/// Of no node.
const NOBODY: u16 = u16::MAX;

/// The primaries of a cluster and the slots of each, as one of its nodes tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotMap {
    /// Where each primary is, and the slots that it serves as ranges, first and last, in order.
    primaries: Vec<(Host, Vec<(u16, u16)>)>,
    /// The place of each slot's primary among these.
    owners: Vec<u16>,
}

impl SlotMap {
    /// Reads the answer to `CLUSTER SLOTS` of the node at `asked`. `None` where it cannot be read, or a slot is nobody's.
    pub(super) fn of_answer(answer: &[Value], asked: &Host) -> Option<Self> {
        let mut ranges: BTreeMap<Host, Vec<(u16, u16)>> = BTreeMap::new();
        for range in answer {
            let Value::Array(range) = range else { return None };
            let [first, last, Value::Array(primary), ..] = &range[..] else { return None };
            let slot = |value| redis::from_redis_value_ref::<u16>(value).ok().filter(|slot| usize::from(*slot) < SLOTS);
            let [host, port, ..] = &primary[..] else { return None };
            let host: Option<String> = redis::from_redis_value_ref(host).ok()?;
            // A node that does not know its own name is where it was asked.
            let host = host.filter(|host| !host.is_empty() && host != "?").unwrap_or_else(|| asked.0.clone());
            let port = redis::from_redis_value_ref(port).ok()?;
            ranges.entry((host, port)).or_default().push((slot(first)?, slot(last)?));
        }
        Self::of_ranges(ranges)
    }

    fn of_ranges(ranges: BTreeMap<Host, Vec<(u16, u16)>>) -> Option<Self> {
        let mut owners = vec![NOBODY; SLOTS];
        let mut primaries: Vec<_> = ranges.into_iter().collect();
        for (place, (_, ranges)) in primaries.iter_mut().enumerate() {
            ranges.sort_unstable();
            for (first, last) in ranges {
                owners.get_mut(usize::from(*first)..=usize::from(*last))?.fill(u16::try_from(place).ok()?);
            }
        }
        // Neighbouring ranges are one, however the node cuts them.
        for (_, ranges) in &mut primaries {
            let mut joined: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
            for (first, last) in ranges.drain(..) {
                match joined.last_mut() {
                    Some(before) if before.1 + 1 == first => before.1 = last,
                    _ => joined.push((first, last)),
                }
            }
            *ranges = joined;
        }
        (!owners.contains(&NOBODY)).then_some(Self { primaries, owners })
    }

    /// Where the primaries are.
    pub(super) fn primaries(&self) -> impl Iterator<Item = &Host> {
        self.primaries.iter().map(|(host, _)| host)
    }

    /// The slot of a key, and the place of its primary.
    pub(super) fn place(&self, key: &[u8]) -> (u16, usize) {
        let slot = slot(key);
        (slot, self.owners.get(usize::from(slot)).copied().unwrap_or_default().into())
    }

    /// What the keys of markers end with on each primary: a number that stands for its slots, and a hash tag in the first of them.
    pub(super) fn marks(&self) -> Vec<String> {
        let mut tags: Vec<Option<u32>> = vec![None; self.primaries.len()];
        let mut left = tags.len();
        for number in 0_u32.. {
            if left == 0 {
                break;
            }
            if let Some(tag @ None) = tags.get_mut(self.place(number.to_string().as_bytes()).1) {
                *tag = Some(number);
                left -= 1;
            }
        }
        let slots = self.primaries.iter().map(|(_, ranges)| fingerprint(ranges));
        tags.into_iter().zip(slots).map(|(tag, slots)| format!(":{slots:016x}:{{{}}}", tag.unwrap_or_default())).collect()
    }
}

/// The slot of a key, of the part in its first braces if there is one: CRC-16/XMODEM, as the cluster computes it.
fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        rest.iter().position(|byte| *byte == b'}').map(|close| &rest[..close]).filter(|tag| !tag.is_empty())
    });
    crc16::State::<crc16::XMODEM>::calculate(tag.unwrap_or(key)) % SLOTS as u16
}

/// FNV-1a over the bounds, little endian: the same for every gateway and every build.
fn fingerprint(ranges: &[(u16, u16)]) -> u64 {
    let bounds = ranges.iter().flat_map(|(first, last)| [first.to_le_bytes(), last.to_le_bytes()].concat());
    bounds.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ranges: &[(&str, u16, u16)]) -> Option<SlotMap> {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let range = |(host, first, last): &(&str, u16, u16)| {
            let node = Value::Array(vec![text(host), Value::Int(7), text("id")]);
            Value::Array(vec![Value::Int((*first).into()), Value::Int((*last).into()), node.clone(), node])
        };
        SlotMap::of_answer(&ranges.iter().map(range).collect::<Vec<_>>(), &("asked".into(), 1))
    }

    #[test]
    fn keys_have_the_slots_that_the_cluster_gives_them() {
        // What `CLUSTER KEYSLOT` of Redis 7 says of them.
        for (key, expected) in [
            ("", 0),
            ("foo", 12_182),
            ("123456789", 0x31c3),
            ("a{b}c", 3_300),
            ("{}x", 10_595),
            ("a{{b}}", 6_215),
            ("a{b", 13_340),
            ("s:1:{\u{1}\0\0}", 14_128),
            ("{a}{b}", 15_495),
            ("}{", 12_793),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn a_map_says_whose_a_slot_is() {
        let map = map(&[("b", 8_000, 16_383), ("a", 0, 4_000), ("", 4_001, 7_999)]).unwrap();
        let primaries: Vec<_> = map.primaries().map(|(host, _)| host.as_str()).collect();
        assert_eq!(primaries, ["a", "asked", "b"]);
        assert_eq!(map.place(b"123456789"), (0x31c3, 2));
        for (place, mark) in map.marks().iter().enumerate() {
            assert_eq!(map.place(mark.as_bytes()).1, place, "{mark}");
        }
    }

    #[test]
    fn marks_change_with_the_slots_and_with_nothing_else() {
        let before = map(&[("a", 0, 8_000), ("b", 8_001, 16_383)]).unwrap();
        let cut = map(&[("b", 8_001, 16_383), ("a", 4_000, 8_000), ("a", 0, 3_999)]).unwrap();
        assert_eq!(before, cut);
        let failed_over = map(&[("c", 0, 8_000), ("b", 8_001, 16_383)]).unwrap();
        let mut marks = failed_over.marks();
        marks.reverse();
        assert_eq!(before.marks(), marks);
        let moved = map(&[("a", 0, 7_999), ("b", 8_000, 16_383)]).unwrap();
        assert!(before.marks().iter().zip(moved.marks()).all(|(before, after)| *before != after));
    }

    #[test]
    fn a_map_with_holes_is_none() {
        assert_eq!(map(&[]), None);
        assert_eq!(map(&[("a", 0, 16_382)]), None);
        assert_eq!(map(&[("a", 0, 16_384)]), None);
    }
}
