//! Numbers in as many bytes as they need: seven bits in each, the lowest first, and signs as the lowest bit.

/// Decodes the number at the beginning of `bytes`, and returns its length; `None` if there are too few bytes.
pub(crate) fn number(bytes: &[u8]) -> Result<Option<(i64, usize)>, String> {
    let mut zigzag = 0_u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        let digits = u64::from(byte & 0x7f);
        if index == 9 && digits > 1 {
            break;
        }
        zigzag |= digits << (7 * index);
        if byte & 0x80 == 0 {
            let number = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
            return Ok(Some((number, index + 1)));
        }
    }
    match bytes.len() < 10 {
        true => Ok(None),
        false => Err("a number has more than 64 bits".to_owned()),
    }
}
