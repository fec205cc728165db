//! The system calls of the server, as strace shows them: which files the server opens, and how many calls a request
//! costs. Without strace, these tests are skipped.

mod common;

use std::process::Stdio;

use common::{Background, Client, Folder, eventually, free_port, has_tool, tool};

/// Starts the server under strace, which traces these calls, and runs `ask`. Returns the lines of strace until the
/// first response, and those after it. `ask` receives a client, and a function that returns the lines so far.
fn traced(calls: &str, ask: impl FnOnce(&mut Client, &dyn Fn() -> String)) -> Option<(String, String)> {
    if !has_tool("strace", &["--version"]) {
        return None;
    }
    let folder = Folder::new("strace");
    let (path, port) = (folder.path("trace"), free_port());
    let mut command = tool("strace");
    // With -D, the process that is started becomes the server, and strace is a separate process.
    command.args(["-D", "-q", "-e", &format!("trace={calls}"), "-o", &path]);
    command.arg(env!("CARGO_BIN_EXE_quinistry")).args(["--listen", &format!("127.0.0.1:{port}")]);
    let mut server = Background::start(command.stderr(Stdio::null()));
    let address = ([127, 0, 0, 1], port).into();
    eventually("the server listens", || std::net::TcpStream::connect(address).ok());
    let mut client = Client::connect(address);
    client.send_request("GET /v2/", &[]);
    client.response_to("GET /v2/");
    let lines = || std::fs::read_to_string(&path).expect("strace writes it");
    let at_start = lines();
    ask(&mut client, &lines);
    drop(client);
    server.signal(libc::SIGTERM);
    eventually("the process ends", || server.0.try_wait().expect("our own child"));
    eventually("strace ends", || lines().ends_with("exited with 0 +++\n").then_some(()));
    let after = lines()[at_start.len()..].to_owned();
    Some((at_start, after))
}

#[test]
fn the_server_opens_only_files_about_itself() {
    let Some((at_start, after)) = traced("open,openat,openat2,creat", |_, _| {}) else { return };
    let opened: Vec<_> = at_start.lines().filter(|line| line.contains("open")).collect();
    let paths = ["/proc/self/fd\"", "/proc/self/cgroup\"", "/sys/fs/cgroup/", "/proc/self/exe\"", "/proc/self/statm\""];
    let path_of = |call: &&str| {
        let is_read = call.contains("O_RDONLY");
        paths.into_iter().find(|path| is_read && call.contains(&format!("\"{path}")))
    };
    let mut files: Vec<_> = opened.iter().map(|call| path_of(call).unwrap_or_else(|| panic!("{call}"))).collect();
    files.dedup();
    assert_eq!(files, paths, "{at_start}");
    assert!(!after.contains("open"), "{after}");
}

#[test]
fn a_request_on_a_persistent_connection_costs_one_recv_and_one_send() {
    const REQUESTS: usize = 50;
    const LINE: &str = "GET /v2/quinistry/manifests/latest";
    let ask = |client: &mut Client, _: &dyn Fn() -> String| {
        for _ in 0..REQUESTS {
            client.send_request(LINE, &[]);
            assert_eq!(client.response_to(LINE).status, 200);
        }
    };
    let network = "recvfrom,recvmsg,sendto,sendmsg,read,readv,write,writev,ioctl,setsockopt";
    let Some((_, after)) = traced(network, ask) else { return };
    let count = |call: &str| after.lines().filter(|line| line.starts_with(call)).count();
    // One more read finds the end of the input. The log is written by calls of `write`, which are not counted.
    assert_eq!(count("recvfrom(") - 1, REQUESTS, "{after}");
    assert_eq!(count("sendto("), REQUESTS, "{after}");
    for call in ["recvmsg(", "sendmsg(", "readv(", "writev(", "setsockopt("] {
        assert_eq!(count(call), 0, "{call} in {after}");
    }
}
