//! How large a picture is, read from the first bytes of a data URL.
//!
//! Only what a decoder must obey is read: the header of PNG, JPEG, GIF and WebP. Whatever else it is, or does not fit, has
//! no known size, and is then taken for the largest picture there is. Nothing is allocated, and no pixel is decoded.

/// Width and height in pixels, neither zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
}

/// Longest type and encoding before the comma of a data URL.
const LONGEST_PREFIX: usize = 128;
/// Most segments of a JPEG, or blocks of a GIF, that are passed over before the picture itself.
const MOST_BLOCKS: usize = 256;

/// The size of the picture in `url`, a `data:` URL in base64 as it stands in JSON.
#[must_use]
pub fn size_in_data_url(url: &str) -> Option<Size> {
    let rest = url.strip_prefix("data:")?;
    let comma = rest.bytes().take(LONGEST_PREFIX).position(|byte| byte == b',')?;
    let (prefix, data) = (rest.get(..comma)?, rest.get(comma + 1..)?);
    // Who says that it is something else may be believed before its first bytes are. JSON may escape the slash.
    let is_image = ["image/", "image\\/"].iter().any(|kind| prefix.starts_with(kind));
    if !is_image || !prefix.ends_with(";base64") {
        return None;
    }
    let mut bytes = Base64::new(data);
    let size = size(&mut bytes)?;
    // Some decoders pass over what is not base64; then every byte behind it lies elsewhere than it was read here.
    bytes.is_clean().then_some(size).filter(|size| size.width > 0 && size.height > 0)
}

fn size(bytes: &mut Base64<'_>) -> Option<Size> {
    match bytes.array(0)? {
        [0x89, b'P', b'N', b'G'] => png(bytes),
        [0xFF, 0xD8, 0xFF, _] => jpeg(bytes),
        [b'G', b'I', b'F', b'8'] => gif(bytes),
        [b'R', b'I', b'F', b'F'] => webp(bytes),
        _ => None,
    }
}

/// PNG (ISO/IEC 15948): the first chunk is `IHDR`, which begins with width and height.
fn png(bytes: &mut Base64<'_>) -> Option<Size> {
    let begins = bytes.array(0)? == *b"\x89PNG\r\n\x1a\n" && bytes.array(12)? == *b"IHDR";
    let (width, height) = (u32::from_be_bytes(bytes.array(16)?), u32::from_be_bytes(bytes.array(20)?));
    begins.then_some(Size { width, height })
}

/// JPEG (ITU-T T.81, annex B): segments until a frame header, whose fields are precision, height and width.
fn jpeg(bytes: &mut Base64<'_>) -> Option<Size> {
    let mut at = 2;
    for _ in 0..MOST_BLOCKS {
        let [0xFF, marker] = bytes.array(at)? else { return None };
        match marker {
            // A fill byte.
            0xFF => at += 1,
            0x01 | 0xD0..=0xD7 => at += 2,
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                let height = u32::from(u16::from_be_bytes(bytes.array(at + 5)?));
                let width = u32::from(u16::from_be_bytes(bytes.array(at + 7)?));
                return Some(Size { width, height });
            }
            // Coded data, or the end, before any frame.
            0x00 | 0xD8..=0xDA => return None,
            _ => at += 2 + usize::from(u16::from_be_bytes(bytes.array(at + 2)?)).max(2),
        }
    }
    None
}

/// GIF89a: the larger of the logical screen and of what the first image covers.
fn gif(bytes: &mut Base64<'_>) -> Option<Size> {
    let number = |bytes: &mut Base64<'_>, at| bytes.array(at).map(|pair| u32::from(u16::from_le_bytes(pair)));
    let (mut width, mut height) = (number(bytes, 6)?, number(bytes, 8)?);
    let colours = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + colours(bytes.byte(10)?);
    for _ in 0..MOST_BLOCKS {
        match bytes.byte(at)? {
            b',' => {
                width = width.max(number(bytes, at + 1)? + number(bytes, at + 5)?);
                height = height.max(number(bytes, at + 3)? + number(bytes, at + 7)?);
                return Some(Size { width, height });
            }
            b'!' => at = after_sub_blocks(bytes, at + 2)?,
            _ => return None,
        }
    }
    None
}

fn after_sub_blocks(bytes: &mut Base64<'_>, mut at: usize) -> Option<usize> {
    for _ in 0..MOST_BLOCKS {
        match bytes.byte(at)? {
            0 => return Some(at + 1),
            length => at += 1 + usize::from(length),
        }
    }
    None
}

/// WebP (RFC 9649): the canvas of the extended format, or the frame header of the lossy or lossless bitstream.
fn webp(bytes: &mut Base64<'_>) -> Option<Size> {
    if bytes.array(8)? != *b"WEBP" {
        return None;
    }
    match &bytes.array::<4>(12)? {
        b"VP8X" => {
            let number = |[a, b, c]: [u8; 3]| u32::from_le_bytes([a, b, c, 0]) + 1;
            Some(Size { width: number(bytes.array(24)?), height: number(bytes.array(27)?) })
        }
        b"VP8 " if bytes.array(23)? == [0x9D, 0x01, 0x2A] => {
            let number = |pair: [u8; 2]| u32::from(u16::from_le_bytes(pair) & 0x3FFF);
            Some(Size { width: number(bytes.array(26)?), height: number(bytes.array(28)?) })
        }
        b"VP8L" if bytes.byte(20)? == 0x2F => {
            let bits = u32::from_le_bytes(bytes.array(21)?);
            Some(Size { width: (bits & 0x3FFF) + 1, height: (bits >> 14 & 0x3FFF) + 1 })
        }
        _ => None,
    }
}

/// Base64 text of which single bytes are decoded where they are wanted.
pub(crate) struct Base64<'a> {
    text: &'a [u8],
    /// How many characters have been relied on.
    read: usize,
}

impl<'a> Base64<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text: text.as_bytes(), read: 0 }
    }

    /// The byte at `at` of what is encoded.
    pub(crate) fn byte(&mut self, at: usize) -> Option<u8> {
        let start = (at / 3).checked_mul(4)? + at % 3;
        let (high, low) = (value(*self.text.get(start)?)?, value(*self.text.get(start + 1)?)?);
        self.read = self.read.max(start + 2);
        let two = u16::from(high) << 6 | u16::from(low);
        u8::try_from(two >> (4 - 2 * (at % 3)) & 0xFF).ok()
    }

    /// `N` bytes from `at` on.
    pub(crate) fn array<const N: usize>(&mut self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        for (offset, byte) in bytes.iter_mut().enumerate() {
            *byte = self.byte(at.checked_add(offset)?)?;
        }
        Some(bytes)
    }

    /// Whether everything up to the last byte that was asked for is base64 without a gap.
    pub(crate) fn is_clean(&self) -> bool {
        self.text.iter().take(self.read).all(|&byte| value(byte).is_some())
    }
}

fn value(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Standard base64 with padding.
    pub(crate) fn encode(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for digit in 0..4 {
                let pad = digit > chunk.len();
                text.push(if pad { '=' } else { char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]) });
            }
        }
        text
    }

    fn url(bytes: &[u8]) -> String {
        format!("data:image/x;base64,{}", encode(bytes))
    }

    pub(crate) fn png_url(width: u32, height: u32) -> String {
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
        bytes.extend(width.to_be_bytes().into_iter().chain(height.to_be_bytes()).chain([8, 2, 0, 0, 0]));
        url(&bytes)
    }

    fn jpeg_bytes(before: usize, width: u16, height: u16) -> Vec<u8> {
        let mut bytes = vec![0xFF, 0xD8, 0xFF, 0xE1];
        bytes.extend(u16::try_from(before + 2).unwrap().to_be_bytes());
        bytes.extend(std::iter::repeat_n(0xC0, before));
        bytes.extend([0xFF, 0xFF, 0xC2, 0, 17, 8]);
        bytes.extend(height.to_be_bytes().into_iter().chain(width.to_be_bytes()).chain([3]));
        bytes
    }

    fn gif_bytes(screen: (u16, u16), frame: [u16; 4]) -> Vec<u8> {
        let mut bytes = b"GIF89a".to_vec();
        bytes.extend(screen.0.to_le_bytes().into_iter().chain(screen.1.to_le_bytes()).chain([0x81, 0, 0]));
        bytes.extend([7; 12]);
        bytes.extend([b'!', 0xF9, 4, 0, 0, 0, 0, 0, b',']);
        bytes.extend(frame.into_iter().flat_map(u16::to_le_bytes).chain([0]));
        bytes
    }

    fn riff(kind: &[u8], payload: &[u8]) -> Vec<u8> {
        [b"RIFF\0\0\0\0WEBP", kind, b"\0\0\0\0", payload].concat()
    }

    fn size(bytes: &[u8]) -> Option<(u32, u32)> {
        size_in_data_url(&url(bytes)).map(|size| (size.width, size.height))
    }

    #[test]
    fn every_format_says_its_size() {
        assert_eq!(size_in_data_url(&png_url(1920, 1080)), Some(Size { width: 1920, height: 1080 }));
        let escaped = png_url(1920, 1080).replace("image/x", "image\\/png");
        assert_eq!(size_in_data_url(&escaped), Some(Size { width: 1920, height: 1080 }));
        for before in [0, 1, 2, 3, 60_000] {
            assert_eq!(size(&jpeg_bytes(before, 640, 480)), Some((640, 480)), "{before}");
        }
        assert_eq!(size(&gif_bytes((10, 20), [0, 0, 5, 5])), Some((10, 20)));
        assert_eq!(size(&riff(b"VP8X", &[0, 0, 0, 0, 0x7f, 2, 0, 0xdf, 1, 0])), Some((640, 480)));
        assert_eq!(size(&riff(b"VP8 ", &[0, 0, 0, 0x9d, 1, 0x2a, 0x80, 2, 0xe0, 1])), Some((640, 480)));
        let bits: u32 = 639 | 479 << 14;
        assert_eq!(size(&riff(b"VP8L", &[&[0x2f][..], &bits.to_le_bytes()].concat())), Some((640, 480)));
    }

    #[test]
    fn a_frame_larger_than_its_screen_counts() {
        assert_eq!(size(&gif_bytes((1, 1), [7, 9, 4000, 3000])), Some((4007, 3009)));
    }

    #[test]
    fn what_is_damaged_or_unknown_has_no_size() {
        let url = png_url(640, 480);
        for no_size in [
            "https://x/y.png".to_owned(),
            "data:image/png,AAAA".to_owned(),
            "data:image/png;base64,".to_owned(),
            url[..40].to_owned(),
            url.replace("base64,", "base64,\\n"),
            png_url(0, 480),
            url.replace("image/x", "application/pdf"),
            url.replace("image/x", ""),
            "data:image/svg+xml;base64,PHN2Zz48L3N2Zz4=".to_owned(),
        ] {
            assert_eq!(size_in_data_url(&no_size), None, "{no_size}");
        }
        // A gap inside a segment that is passed over moves everything behind it.
        let gap = self::url(&jpeg_bytes(600, 640, 480));
        assert!(size_in_data_url(&gap).is_some());
        let gap = format!("{}\\n{}", &gap[..200], &gap[202..]);
        assert_eq!(size_in_data_url(&gap), None);
    }

    proptest! {
        #[test]
        fn single_bytes_are_decoded_as_all_are(bytes: Vec<u8>) {
            let text = encode(&bytes);
            let mut encoded = Base64::new(&text);
            for (at, byte) in bytes.iter().enumerate() {
                prop_assert_eq!(encoded.byte(at), Some(*byte));
            }
            prop_assert_eq!(encoded.byte(bytes.len() + 3), None);
            prop_assert!(encoded.is_clean());
        }

        #[test]
        fn any_bytes_are_survived(begin in 0usize..6, bytes: Vec<u8>, text in "\\PC*") {
            let begins: [&[u8]; 6] = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF0000WEBPVP8X", b"RIFF0000WEBPVP8L"];
            size(&[begins[begin], &bytes].concat());
            let url = format!("data:image/png;base64,{text}");
            prop_assert!(size_in_data_url(&url).is_none_or(|size| size.width > 0));
        }
    }
}
