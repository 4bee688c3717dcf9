//! How long a recording can be at most, from its first bytes and its length.

use crate::picture::Base64;

/// The most milliseconds that `data`, the base64 text of a recording in `format` (`wav` or `mp3`), can last; `None` when its
/// length in bytes says nothing of that.
///
/// * WAV (RFC 2361, formats 1 and 3): uncompressed, so its header gives the bytes of one second.
/// * MP3 (ISO/IEC 11172-3 and 13818-3, layer III, and its extension to low rates): no frame has less than 8 kilobits a second,
///   which is a byte in each millisecond.
#[must_use]
pub(crate) fn most_millis(format: &str, data: &str) -> Option<u64> {
    // Padding and a last group that is not full only make it longer than it is.
    let length = (data.len() as u64 / 4 + 1) * 3;
    let mut bytes = Base64::new(data);
    let millis = match format {
        "mp3" => is_mp3(&mut bytes)?.then_some(length),
        "wav" => Some(length.saturating_mul(1000).div_ceil(wav_bytes_per_second(&mut bytes)?)),
        _ => None,
    };
    millis.filter(|_| bytes.is_clean())
}

fn is_mp3(bytes: &mut Base64<'_>) -> Option<bool> {
    let [first, second, third] = bytes.array(0)?;
    let is_layer_three = first == 0xFF && second & 0xE6 == 0xE2;
    // Rate 0 is a free format, for which there is no least rate.
    Some([first, second, third] == *b"ID3" || (is_layer_three && third >> 4 != 0))
}

fn wav_bytes_per_second(bytes: &mut Base64<'_>) -> Option<u64> {
    if bytes.array(0)? != *b"RIFF" || bytes.array(8)? != *b"WAVEfmt " {
        return None;
    }
    let number = |bytes: &mut Base64<'_>, at| bytes.array(at).map(u16::from_le_bytes);
    let (format, channels, block) = (number(bytes, 20)?, number(bytes, 22)?, number(bytes, 32)?);
    let rate = u32::from_le_bytes(bytes.array(24)?);
    let is_plain = matches!(format, 1 | 3) && channels > 0;
    let per_second = u64::from(rate).checked_mul(u64::from(block))?;
    // A block that is not a sample of every channel would be read otherwise than it says.
    let bits = u32::from(number(bytes, 34)?);
    let fits = bits > 0 && u32::from(channels) * bits.div_ceil(8) == u32::from(block);
    (is_plain && fits && per_second > 0).then_some(per_second)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::picture::tests::encode;

    pub(crate) fn wav(rate: u32, channels: u16, bits: u16, seconds: u32) -> Vec<u8> {
        let block = channels * bits / 8;
        let mut bytes = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0".to_vec();
        bytes.extend(channels.to_le_bytes().into_iter().chain(rate.to_le_bytes()));
        bytes.extend((rate * u32::from(block)).to_le_bytes().into_iter().chain(block.to_le_bytes()));
        bytes.extend(bits.to_le_bytes().into_iter().chain(*b"data\0\0\0\0"));
        bytes.extend(std::iter::repeat_n(0, (rate * u32::from(block) * seconds) as usize));
        bytes
    }

    #[test]
    fn uncompressed_sound_is_as_long_as_it_is() {
        for (rate, channels, bits) in [(16_000, 1, 16), (44_100, 2, 16), (8_000, 1, 8), (48_000, 2, 24)] {
            let millis = most_millis("wav", &encode(&wav(rate, channels, bits, 3))).unwrap();
            assert!((3000..3020).contains(&millis), "{rate}: {millis}");
        }
    }

    #[test]
    fn compressed_sound_has_at_least_a_byte_in_each_millisecond() {
        let frames = [&[0xFF, 0xFB, 0x74, 0xC4][..], &[0; 996]].concat();
        assert_eq!(most_millis("mp3", &encode(&frames)), Some(1005));
        assert_eq!(most_millis("mp3", &encode(b"ID3\x03\0\0\0\0\0")), Some(12));
    }

    #[test]
    fn what_has_no_known_rate_has_no_known_length() {
        let wav = wav(16_000, 1, 16, 1);
        let with = |at: usize, byte: u8| {
            let mut wav = wav.clone();
            wav[at] = byte;
            encode(&wav)
        };
        for (at, byte) in [(0, 0), (20, 2), (22, 0), (32, 4), (34, 0)] {
            assert_eq!(most_millis("wav", &with(at, byte)), None, "{at}");
        }
        for (format, data) in [("mp3", ""), ("mp3", "AAAA"), ("mp3", "//sAAA=="), ("opus", "//tw"), ("wav", "Ukl")] {
            assert_eq!(most_millis(format, data), None, "{format} {data}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, wav: bool, text in "\\PC*") {
            let format = if wav { "wav" } else { "mp3" };
            let framed = most_millis(format, &encode(&[b"RIFF0000WAVEfmt ", &bytes[..]].concat()));
            prop_assert!(framed.is_none_or(|millis| millis > 0));
            prop_assert!(most_millis(format, &text).is_none_or(|millis| millis > 0));
        }
    }
}
