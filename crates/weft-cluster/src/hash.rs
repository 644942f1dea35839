//! Short names for templates, as Kubernetes spells them: the letters of its safe alphabet,
//! which form no words.

use serde::Serialize;

const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A hash of a value and of the number of collisions so far. At most ten characters, each legal
/// in names and labels.
pub(crate) fn of(object: &impl Serialize, collisions: Option<i32>) -> String {
    let text = serde_json::to_vec(object).expect("invariant: API types always serialize to JSON");
    let collisions = collisions.unwrap_or(0).to_le_bytes();
    // FNV-1a, 32 bits: as in Kubernetes, but over the JSON form, for Go's is not ours to have.
    let hash = text
        .iter()
        .chain(collisions.iter().filter(|byte| **byte != 0))
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % 27])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_names() {
        let one = of(&"a", None);
        assert!(one.len() <= 10 && one.bytes().all(|byte| ALPHABET.contains(&byte)));
        assert_eq!(one, of(&"a", Some(0)));
        assert_ne!(one, of(&"a", Some(1)));
        assert_ne!(one, of(&"b", None));
    }
}
