//! Tars byte by byte, also such as no tool would write.

pub(crate) struct PaxArchive {
    pub(crate) bytes: Vec<u8>,
    mode: u32,
}

/// A relative name for an absolute one.
pub(crate) fn up(path: &str) -> String {
    format!("{}{}", "../".repeat(20), path.trim_start_matches('/'))
}

impl PaxArchive {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            mode: 0o755,
        }
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn file(self, path: &str, bytes: &[u8]) -> Self {
        self.entry(path, b'0', bytes.len() as i64, "", (0, 0), bytes)
    }

    pub(crate) fn directory(self, path: &str) -> Self {
        self.entry(path, b'5', 0, "", (0, 0), b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, b'2', 0, target, (0, 0), b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, b'1', 0, target, (0, 0), b"")
    }

    pub(crate) fn device(self, path: &str, kind: u8, major: u32, minor: u32) -> Self {
        self.entry(path, kind, 0, "", (major, minor), b"")
    }

    /// Any size beside any data.
    pub(crate) fn raw(self, path: &str, kind: u8, size: i64, data: &[u8]) -> Self {
        self.entry(path, kind, size, "", (0, 0), data)
    }

    pub(crate) fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
        }
        let size = data.len() as i64;
        self.entry("PaxHeaders/x", b'x', size, "", (0, 0), &data)
    }

    fn entry(
        mut self,
        path: &str,
        kind: u8,
        size: i64,
        link: &str,
        device: (u32, u32),
        data: &[u8],
    ) -> Self {
        let mut path = path.as_bytes().to_vec();
        let mut link = link.as_bytes().to_vec();
        for (long, name) in [(b'L', &mut path), (b'K', &mut link)] {
            if name.len() > 99 {
                let whole = [name.as_slice(), b"\0"].concat();
                self = self.entry(
                    "././@LongLink",
                    long,
                    whole.len() as i64,
                    "",
                    (0, 0),
                    &whole,
                );
                name.truncate(99);
            }
        }
        let mut header = [0_u8; 512];
        header[..path.len()].copy_from_slice(&path);
        header[157..157 + link.len()].copy_from_slice(&link);
        let mut octal = |at: usize, width: usize, value: u32| {
            header[at..at + width - 1]
                .copy_from_slice(format!("{value:0w$o}", w = width - 1).as_bytes());
        };
        octal(100, 8, self.mode);
        octal(108, 8, 0);
        octal(116, 8, 0);
        octal(136, 12, 1_600_000_000);
        octal(329, 8, device.0);
        octal(337, 8, device.1);
        if (0..1 << 33).contains(&size) {
            header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        } else {
            let bytes = i128::from(size).to_be_bytes();
            header[124..136].copy_from_slice(&bytes[4..]);
            header[124] |= 0x80;
        }
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        checksum(&mut header);
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(data);
        let padding = data.len().wrapping_neg() % 512;
        self.bytes.resize(self.bytes.len() + padding, 0);
        self
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }

    /// Makes the checksum of the block around a changed byte right again, if it looks like a header.
    pub(crate) fn repair(tar: &mut [u8], at: usize) {
        let start = at / 512 * 512;
        if let Some(block) = tar.get_mut(start..start + 512)
            && block[257..262] == *b"ustar"
        {
            checksum(block.try_into().unwrap());
        }
    }
}

fn checksum(header: &mut [u8; 512]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
