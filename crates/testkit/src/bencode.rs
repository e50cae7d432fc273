//! Just enough bencode (BEP 3) to cut a key out of a torrent.

/// The length of the value that `bytes` begin with; `None` when it is cut short or nonsense.
fn value_length(bytes: &[u8]) -> Option<usize> {
    match bytes.first()? {
        b'i' => Some(bytes.iter().position(|&byte| byte == b'e')? + 1),
        b'l' | b'd' => {
            let mut at = 1;
            while *bytes.get(at)? != b'e' {
                at += value_length(&bytes[at..])?;
            }
            Some(at + 1)
        }
        _ => string_end(bytes),
    }
}

fn string_end(bytes: &[u8]) -> Option<usize> {
    let colon = bytes.iter().take(12).position(|&byte| byte == b':')?;
    let length: usize = std::str::from_utf8(&bytes[..colon]).ok()?.parse().ok()?;
    let end = colon + 1 + length;
    (end <= bytes.len()).then_some(end)
}

/// A bencoded dictionary without one of its top keys, such as a torrent without its `url-list`.
#[track_caller]
pub fn without_key(dict: &[u8], key: &str) -> Vec<u8> {
    let wanted = format!("{}:{key}", key.len());
    assert_eq!(dict.first(), Some(&b'd'), "not a bencoded dictionary");
    let mut out = vec![b'd'];
    let mut at = 1;
    while dict.get(at) != Some(&b'e') {
        let end_of_key = at + string_end(&dict[at..]).expect("a key");
        let end = end_of_key + value_length(&dict[end_of_key..]).expect("a value");
        if dict[at..end_of_key] != *wanted.as_bytes() {
            out.extend_from_slice(&dict[at..end]);
        }
        at = end;
    }
    out.push(b'e');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_cut_and_the_rest_kept() {
        let torrent = b"d8:announce3:abc4:infod6:lengthi5ee8:url-listl1:a1:bee";
        assert_eq!(
            without_key(torrent, "url-list"),
            b"d8:announce3:abc4:infod6:lengthi5eee"
        );
        assert_eq!(without_key(torrent, "other"), torrent);
    }
}
