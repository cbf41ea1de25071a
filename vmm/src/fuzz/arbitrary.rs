//! Maps of any bytes, for fuzzers that mutate bytes.

use arbitrary::{Arbitrary, Result, Unstructured};

use crate::memory_map::MemoryMap;
use crate::memory_map::mutate::Mutation;
use crate::memory_map::synthesize::{Class, synthesize};

/// A map of any class, and mutations for as long as there are bytes. So a change of the last bytes changes a part of the map.
impl<'a> Arbitrary<'a> for MemoryMap {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> Result<Self> {
        let class = *bytes.choose(Class::ALL)?;
        let mut map = synthesize(u64::from(u16::arbitrary(bytes)?), class);
        for _ in 0..MAX_MUTATIONS {
            if bytes.is_empty() {
                break;
            }
            let mutation = bytes.choose(Mutation::ALL)?;
            map = mutation.apply(&map, u64::from(u16::arbitrary(bytes)?));
        }
        Ok(map)
    }

    fn size_hint(_: usize) -> (usize, Option<usize>) {
        (3, Some(3 + 3 * MAX_MUTATIONS))
    }
}

/// More would only make one map as good as another.
const MAX_MUTATIONS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn map(bytes: &[u8]) -> MemoryMap {
        MemoryMap::arbitrary(&mut Unstructured::new(bytes)).unwrap()
    }

    #[test]
    fn any_bytes_make_a_map_and_the_same_bytes_the_same() {
        let mut random = Random::new(2013);
        for length in 0..300 {
            let bytes: Vec<u8> = (0..length).map(|_| random.number() as u8).collect();
            let map = self::map(&bytes);
            assert!(!map.descriptors().is_empty());
            assert_eq!(map.descriptors(), self::map(&bytes).descriptors());
        }
    }

    #[test]
    fn the_last_bytes_change_a_part_of_most_maps() {
        let (mut changed, mut alike) = (0, 0);
        for tail in 0..=u8::MAX {
            let bytes = [0, 7, tail, 1, 2, 3];
            let (first, second) = (map(&bytes), map(&[&bytes[..], &[tail, 5, 5]].concat()));
            let same = first.descriptors().iter().filter(|each| second.descriptors().contains(each)).count();
            changed += u32::from(first.descriptors() != second.descriptors());
            alike += u32::from(same + 2 >= first.descriptors().len());
        }
        assert!(changed > 100 && alike > 200, "of 256: {changed} changed, {alike} alike");
    }
}
