use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    broken\n\
    bad:x:minus:0::/:\n\
    huge:x:4294967295:0::/:\n\
    \tdaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    bin:x:2:2:bin:/bin:/bin/false\n\
    bin:x:99:99:second:/second:/bin/false\n\
    app:x:1234:4321::/:/bin/sh";
const GROUP: &str = "root:x:0:\nbin:x:2:bin\nusers:x:100:\nextra:x:500:bin,nobody\nmore:x:501:bin\nmore2:x:501:bin\n";

fn root_with(passwd: Option<&[u8]>, group: Option<&[u8]>) -> (tempfile::TempDir, RootDir) {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("etc")).unwrap();
    if let Some(passwd) = passwd {
        fs::write(directory.path().join("etc/passwd"), passwd).unwrap();
    }
    if let Some(group) = group {
        fs::write(directory.path().join("etc/group"), group).unwrap();
    }
    let root = RootDir::open_ambient(directory.path()).unwrap();
    (directory, root)
}

fn usual() -> (tempfile::TempDir, RootDir) {
    root_with(Some(PASSWD.as_bytes()), Some(GROUP.as_bytes()))
}

#[test]
fn users_of_processes() {
    let (_directory, root) = usual();
    let check = |user: &str, expected: &str| {
        let got = match process_user(&root, user) {
            Ok(user) => format!("{}:{} {} {:?}", user.uid, user.gid, user.home, user.groups),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, expected, "{user}");
    };
    check("", "0:0 /root [0]");
    check("root", "0:0 /root [0]");
    check("daemon", "1:1 /usr/sbin [1]");
    check("bin", "2:2 /bin [2, 500, 501]");
    check("2", "2:2 /bin [2, 500, 501]");
    check("bin:users", "2:100 /bin [100]");
    check("1234:users", "1234:100 / [100]");
    check("55", "55:0 / [0]");
    check("55:66", "55:66 / [66]");
    check(":users", "0:100 /root [100]");
    check("ghost", "no user `ghost` in the image's /etc/passwd");
    check("bin:ghosts", "no group `ghosts` in the image's /etc/group");
    check("bad", "no user `bad` in the image's /etc/passwd");
    check("huge", "no user `huge` in the image's /etc/passwd");
    for id in ["4294967295", "4294967296", "-1", "99999999999999999999"] {
        check(
            id,
            &format!("`{id}` is not a valid id: ids go from 0 to 4294967294"),
        );
    }
    check(
        "5:4294967295",
        "`4294967295` is not a valid id: ids go from 0 to 4294967294",
    );
}

#[test]
fn owners_of_files() {
    let (_directory, root) = usual();
    let check = |owner: &str, expected: (u32, u32)| {
        assert_eq!(file_owner(&root, owner).unwrap(), expected, "{owner}");
    };
    check("55", (55, 55));
    check("55:66", (55, 66));
    check("daemon", (1, 1));
    check("app", (1234, 4321));
    check("bin:users", (2, 100));
    check("1000:users", (1000, 100));
    check("app:7", (1234, 7));
    check(":users", (0, 100));
    check("whoisthis", (0, 0));
    check("5:nogroupofthat", (5, 5));
    check("5:", (5, 0));
    check("app:", (1234, 0));
    check("app:nogroupofthat", (1234, 4321));
    assert!(matches!(file_owner(&root, "-1"), Err(Error::BadId(_))));
}

#[test]
fn names_are_told_from_numbers() {
    assert_eq!(first_name("5:6"), None);
    assert_eq!(first_name("5:staff"), Some("staff"));
    assert_eq!(first_name("me"), Some("me"));
    assert_eq!(first_name(""), None);
    assert_eq!(first_name("root:root"), None);
    assert_eq!(first_name("root:me"), Some("me"));
}

#[test]
fn a_root_without_files() {
    let (_directory, root) = root_with(None, None);
    assert_eq!(process_user(&root, "").unwrap().home, "/");
    assert!(matches!(process_user(&root, "me"), Err(Error::NoUser(_))));
    assert_eq!(file_owner(&root, "me:us").unwrap(), (0, 0));
    assert_eq!(file_owner(&root, "0:root").unwrap(), (0, 0));
}

#[test]
fn root_owns_files_as_0() {
    let (_directory, root) = root_with(
        Some(b"root:x:5:6::/:\nme:x:7:8::/:\n"),
        Some(b"root:x:9:\n"),
    );
    assert_eq!(file_owner(&root, "root").unwrap(), (0, 0));
    assert_eq!(file_owner(&root, "me:root").unwrap(), (7, 0));
    assert_eq!(process_user(&root, "root").unwrap().uid, 5);
}

#[test]
fn links_stay_in_the_root() {
    let (directory, root) = root_with(None, Some(b""));
    symlink("/real", directory.path().join("etc/passwd")).unwrap();
    fs::write(directory.path().join("real"), "inside:x:7:8::/in:\n").unwrap();
    assert_eq!(process_user(&root, "inside").unwrap().uid, 7);
    // The host has a root user; this root has not.
    assert!(matches!(process_user(&root, "root"), Err(Error::NoUser(_))));
}

#[test]
fn pipes_and_directories_are_refused() {
    let (directory, root) = root_with(None, None);
    let path = directory.path().join("etc/passwd");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    assert!(matches!(process_user(&root, "me"), Err(Error::Io { .. })));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(process_user(&root, "me"), Err(Error::Io { .. })));
}

#[test]
fn long_lines_are_passed_over() {
    let mut passwd = vec![b'x'; 3 * 1024 * 1024];
    passwd.extend_from_slice(b"\nme:x:7:8::/me:\n");
    let (_directory, root) = root_with(Some(&passwd), None);
    assert_eq!(process_user(&root, "me").unwrap().uid, 7);
}

#[test]
fn huge_files_are_refused() {
    let (directory, root) = root_with(Some(b""), None);
    let file = fs::File::options()
        .write(true)
        .open(directory.path().join("etc/passwd"))
        .unwrap();
    file.set_len(1 << 40).unwrap();
    let error = process_user(&root, "me").unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn never_panics(passwd in proptest::collection::vec(any::<u8>(), 0..300), user in ".{0,20}") {
        let (_directory, root) = root_with(Some(&passwd), Some(&passwd));
        let _ = process_user(&root, &user);
        let _ = file_owner(&root, &user);
    }

    #[test]
    fn what_is_written_is_found(uid in 0..u32::MAX, gid in 0..u32::MAX, name in "[a-z]{1,8}") {
        let line = format!("{name}:x:{uid}:{gid}:c:/h:/s\n");
        let (_directory, root) = root_with(Some(line.as_bytes()), None);
        let user = process_user(&root, &name).unwrap();
        prop_assert_eq!((user.uid, user.gid), (uid, gid));
        prop_assert_eq!(file_owner(&root, &name).unwrap(), (uid, gid));
    }
}
