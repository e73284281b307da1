//! Every bound of the protocol in one place. A kernel refuses what is larger; nothing here is
//! ever raised silently, because the other side may be years older.

/// Most bytes in the body of one frame, either way. Large enough for a full environment
/// (Linux: 128 KiB per string, 2 MiB in all by default, of which programs use a few KiB).
pub const FRAME_BODY_BYTES_MAX: usize = 1 << 20;

/// Most bytes of records that a kernel puts into one output frame.
pub const OUTPUT_FRAME_BYTES_MAX: usize = 256 << 10;

/// Most bytes of records that a kernel announces with one [`crate::event::MappedOutput`].
pub const MAPPED_OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// Most data bytes in one output record: what one read of a default pipe can give.
pub const RECORD_DATA_BYTES_MAX: usize = 64 << 10;

/// Unread output kept per child when the spawn request does not say otherwise (Circus's manual
/// promises 2 MB for Papa).
pub const OUTPUT_BUFFER_BYTES_DEFAULT: u64 = 2 << 20;

/// Largest output buffer that a spawn request may ask for.
pub const OUTPUT_BUFFER_BYTES_MAX: u64 = 1 << 30;

/// Most bytes in the name of a process, socket, lease or client.
pub const NAME_BYTES_MAX: usize = 255;

/// Most bytes in the key of a value.
pub const VALUE_KEY_BYTES_MAX: usize = 255;

/// Most bytes in one value.
pub const VALUE_BYTES_MAX: usize = 256 << 10;

/// Most labels on one process, and bytes in one label's key and text together.
pub const LABELS_MAX: usize = 32;
/// See [`LABELS_MAX`].
pub const LABEL_BYTES_MAX: usize = 4096;

/// Most items that one listing reply carries; the request names where to go on.
pub const LIST_PAGE_MAX: u32 = 512;

/// Bytes in the line that asks for frames, line end included.
pub const ATTACH_LINE_BYTES_MAX: usize = 64;
