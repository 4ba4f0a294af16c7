//! What the host has, that no instance may get at: keys, shared memory, files by their handles.

#![expect(unsafe_code, reason = "no library offers these calls")]

use std::{ffi::CString, io, os::unix::ffi::OsStrExt, path::Path};

fn check(result: libc::c_long) -> libc::c_long {
    assert!(result >= 0, "{}", io::Error::last_os_error());
    result
}

/// This thread, and what it starts, gets a session keyring with the key `minato-secret` in it.
pub(crate) fn join_a_keyring_with_a_key() {
    const JOIN: libc::c_int = 1;
    const SESSION_KEYRING: libc::c_int = -3;
    let value = b"secret";
    // SAFETY: a null name asks for a keyring without one.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN, std::ptr::null::<u8>()) });
    // SAFETY: both strings have their ends, the value has its length, and all live until the call is over.
    check(unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            c"minato-secret".as_ptr(),
            value.as_ptr(),
            value.len(),
            SESSION_KEYRING,
        )
    });
}

/// A segment of shared memory that every user may attach, by its key; it goes with the value.
pub(crate) struct SharedMemory {
    id: libc::c_int,
    pub(crate) key: libc::key_t,
}

impl SharedMemory {
    pub(crate) fn new() -> Self {
        let key = std::process::id().cast_signed();
        // SAFETY: nothing is attached.
        let id = unsafe { libc::shmget(key, 4096, libc::IPC_CREAT | libc::IPC_EXCL | 0o666) };
        check(id.into());
        Self { id, key }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: nobody has it attached, and no structure is asked for.
        unsafe { libc::shmctl(self.id, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

/// What a file system calls a file: the handle's kind, and its bytes.
pub(crate) fn handle_of(path: &Path) -> (u32, Vec<u8>) {
    const ROOM: u32 = 128;
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // Its length and kind, then the bytes.
    let mut handle = [0_u32; 34];
    handle[0] = ROOM;
    let mut mount = 0;
    // SAFETY: the handle has the room that it says, the path has its end, the mount is a valid place.
    check(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            handle.as_mut_ptr(),
            &raw mut mount,
            0,
        )
    });
    let [length, kind, bytes @ ..] = handle;
    let bytes = bytes.iter().flat_map(|word| word.to_ne_bytes()).take(length as usize);
    (kind, bytes.collect())
}
