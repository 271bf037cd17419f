/* The bare minimum of `rbuild run --rm IMAGE true` as root: the isolation, the network and the directory that a
 * container has, by the fewest system calls that make them, and nothing around it: no arguments, no image names, no
 * index, no runtime, no checks. `minimum.py` builds it and runs it beside rbuild.
 *
 *     minimum LOWER POINTS PLACE PROGRAM
 *     minimum -o ROOT LOWER POINTS PLACE PROGRAM ARGUMENT...
 *
 * LOWER is the image's directory, POINTS an empty root with mount points, PLACE a directory for the container's own.
 * With -o it only mounts these at ROOT, in a mount namespace of its own, while another program runs: what makes
 * containers of roots that are there already.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/mount.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <linux/veth.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what) {
	fprintf(stderr, "minimum: %s: %s\n", what, strerror(errno));
	_exit(125);
}

static int ok(int result, const char *what) {
	if (result < 0) die(what);
	return result;
}

#define fsopen(name) ok(syscall(SYS_fsopen, name, 1), name)
#define fsconfig(fs, command, key, value, aux) ok(syscall(SYS_fsconfig, fs, command, key, value, aux), key ? key : "fsconfig")
#define fsmount(fs, attributes) ok(syscall(SYS_fsmount, fs, 1, attributes), "fsmount")
#define attach(tree, target) ok(syscall(SYS_move_mount, tree, "", target, "", 0x4 | 0x40), "move_mount")
#define copy(fd, path, more) ok(syscall(SYS_open_tree, fd, path, 1 | O_CLOEXEC | (more)), path)

enum { SUID = 2, DEV = 4, EXEC = 8, RO = 1 };

static int make(const char *kind, const char *const *options, int attributes) {
	int fs = fsopen(kind);
	for (; options && *options; options += 2) {
		if (options[1]) fsconfig(fs, 1, options[0], options[1], 0);
		else fsconfig(fs, 0, options[0], NULL, 0);
	}
	fsconfig(fs, 6, NULL, NULL, 0);
	int tree = fsmount(fs, attributes);
	close(fs);
	return tree;
}

static int point(int root, const char *path) {
	return ok(openat(root, path, O_PATH | O_CLOEXEC | O_NOFOLLOW), path);
}

static void mount_on(int tree, int root, const char *path) {
	int target = point(root, path);
	attach(tree, target);
	close(target);
}

static void put(const char *path, const char *text) {
	int fd = ok(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644), path);
	ok(write(fd, text, strlen(text)), path);
	close(fd);
}

/* ---------------------------------------------------------------- the network */

static int inside, packets, stop_network;

static char *add(char *at, int kind, const void *data, int length) {
	struct rtattr *attribute = (void *)at;
	attribute->rta_type = kind;
	attribute->rta_len = RTA_LENGTH(length);
	if (data) memcpy(RTA_DATA(attribute), data, length);
	return at + RTA_ALIGN(attribute->rta_len);
}

static void add_pair(int outside) {
	char request[512] = {0}, *at = request + NLMSG_LENGTH(sizeof(struct ifinfomsg)), *info, *data, *peer;
	int mtu = 65000;
	at = add(at, IFLA_IFNAME, "eth0", 5);
	at = add(at, IFLA_MTU, &mtu, 4);
	info = at, at = add(at, IFLA_LINKINFO, NULL, 0);
	at = add(at, IFLA_INFO_KIND, "veth", 4);
	data = at, at = add(at, IFLA_INFO_DATA, NULL, 0);
	peer = at, at = add(at, VETH_INFO_PEER, NULL, 0);
	at += sizeof(struct ifinfomsg);
	at = add(at, IFLA_IFNAME, "peer", 5);
	at = add(at, IFLA_MTU, &mtu, 4);
	at = add(at, IFLA_NET_NS_FD, &outside, 4);
	((struct rtattr *)peer)->rta_len = at - peer;
	((struct rtattr *)data)->rta_len = at - data;
	((struct rtattr *)info)->rta_len = at - info;
	struct nlmsghdr *header = (void *)request;
	header->nlmsg_len = at - request;
	header->nlmsg_type = RTM_NEWLINK;
	header->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
	int fd = ok(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0), "netlink");
	ok(send(fd, request, header->nlmsg_len, 0), "ask for a veth pair");
	char answer[1024];
	ok(read(fd, answer, sizeof answer), "netlink");
	errno = -((struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)answer))->error;
	if (errno) die("make a veth pair");
	close(fd);
}

static void up(int fd, const char *name) {
	struct ifreq request = {.ifr_flags = IFF_UP};
	strcpy(request.ifr_name, name);
	ok(ioctl(fd, SIOCSIFFLAGS, &request), "bring an interface up");
}

static void *make_network(void *unused) {
	ok(unshare(CLONE_NEWNET), "unshare");
	int outside = ok(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), "netns");
	ok(unshare(CLONE_NEWNET), "unshare");
	inside = ok(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), "netns");
	add_pair(outside);
	int fd = ok(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
	up(fd, "lo");
	struct ifreq request = {0};
	struct sockaddr_in *address = (void *)&request.ifr_addr;
	strcpy(request.ifr_name, "eth0");
	address->sin_family = AF_INET;
	address->sin_addr.s_addr = htonl(0x0ad52f02);
	ok(ioctl(fd, SIOCSIFADDR, &request), "give an address");
	address->sin_addr.s_addr = htonl(0xffffff00);
	ok(ioctl(fd, SIOCSIFNETMASK, &request), "give a mask");
	up(fd, "eth0");
	struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
	struct sockaddr_in any = {.sin_family = AF_INET}, gateway = {AF_INET, 0, {htonl(0x0ad52f01)}};
	memcpy(&route.rt_dst, &any, sizeof any);
	memcpy(&route.rt_genmask, &any, sizeof any);
	memcpy(&route.rt_gateway, &gateway, sizeof gateway);
	ok(ioctl(fd, SIOCADDRT, &route), "make a route");
	close(fd);
	ok(setns(outside, CLONE_NEWNET), "setns");
	fd = ok(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
	up(fd, "peer");
	close(fd);
	packets = ok(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL)), "packet socket");
	struct sockaddr_ll link = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex("peer")};
	ok(bind(packets, (void *)&link, sizeof link), "bind");
	close(outside);
	return unused;
}

static void *carry(void *unused) {
	struct pollfd polled[2] = {{packets, POLLIN}, {stop_network, POLLIN}};
	char packet[65536];
	while (poll(polled, 2, -1) >= 0 && !polled[1].revents)
		if (read(packets, packet, sizeof packet) < 0) break;
	return unused;
}

/* ---------------------------------------------------------------- the sandbox */

static const char *const masked_proc[] = {"acpi", "asound", "interrupts", "kcore", "keys", "kpagecgroup", "kpagecount",
	"kpageflags", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats", "vmcore"};
static const char *const masked_sys[] = {"devices/virtual/powercap", "firmware", "fs/selinux"};
static const char *const read_only[] = {"bus", "fs", "irq", "mtrr", "sys", "sysrq-trigger"};
static const char *const devices[] = {"null", "zero", "full", "random", "urandom", "tty"};
static const char *const links[] = {"/proc/self/fd", "fd", "/proc/self/fd/0", "stdin", "/proc/self/fd/1", "stdout",
	"/proc/self/fd/2", "stderr", "pts/ptmx", "ptmx"};

static void mask(int root, const char *const *paths, int count, int *empty) {
	for (int i = 0; i < count; i++) {
		int target = openat(root, paths[i], O_PATH | O_CLOEXEC | O_NOFOLLOW);
		struct stat stat;
		if (target < 0) continue;
		ok(fstat(target, &stat), "stat");
		int tree;
		if (!S_ISDIR(stat.st_mode)) tree = copy(AT_FDCWD, "/dev/null", 0);
		else if (*empty < 0) tree = *empty = make("tmpfs", (const char *[]){"mode", "0755", NULL}, RO | SUID | DEV | EXEC);
		else tree = copy(*empty, "", AT_EMPTY_PATH);
		attach(tree, target);
		if (tree != *empty) close(tree);
		close(target);
	}
}

static void become(int tree, int files, int cgroup, char *program) {
	ok(prctl(PR_SET_PDEATHSIG, 9), "prctl");
	prctl(PR_SET_DUMPABLE, 0);
	setsid();
	ok(write(cgroup, "0", 1), "join the cgroup");
	ok(unshare(CLONE_NEWCGROUP), "unshare");
	ok(setns(inside, CLONE_NEWNET), "setns");
	ok(syscall(SYS_mount, NULL, "/", NULL, 0x44000, NULL), "make mounts private");
	int old = ok(open("/", O_PATH | O_CLOEXEC), "/");
	attach(tree, old);
	int root = tree;
	int proc = make("proc", NULL, SUID | DEV | EXEC);
	mount_on(proc, root, "proc");
	int sys = make("sysfs", NULL, SUID | DEV | EXEC | RO);
	mount_on(sys, root, "sys");
	int dev = make("tmpfs", (const char *[]){"mode", "0755", "size", "65536k", NULL}, SUID | EXEC | DEV);
	mount_on(dev, root, "dev");
	for (int i = 0; i < 6; i++) {
		char path[20] = "/dev/";
		strcat(path, devices[i]);
		int node = copy(AT_FDCWD, path, 0);
		close(ok(openat(dev, devices[i], O_CREAT | O_WRONLY | O_CLOEXEC, 0666), "device"));
		mount_on(node, dev, devices[i]);
		close(node);
	}
	for (int i = 0; i < 10; i += 2) ok(symlinkat(links[i], dev, links[i + 1]), "link");
	ok(mkdirat(dev, "pts", 0755), "pts");
	ok(mkdirat(dev, "shm", 0755), "shm");
	ok(mkdirat(dev, "mqueue", 0755), "mqueue");
	mount_on(make("devpts", (const char *[]){"newinstance", NULL, "ptmxmode", "0666", "mode", "0620", "gid", "5", NULL}, SUID | EXEC), dev, "pts");
	mount_on(make("tmpfs", (const char *[]){"mode", "1777", "size", "67108864", NULL}, SUID | DEV | EXEC), dev, "shm");
	mount_on(make("mqueue", NULL, SUID | DEV | EXEC), dev, "mqueue");
	for (int i = 0; i < 6; i++) {
		int target = openat(proc, read_only[i], O_PATH | O_CLOEXEC | O_NOFOLLOW);
		if (target < 0) continue;
		int part = copy(target, "", AT_EMPTY_PATH | AT_RECURSIVE);
		struct mount_attr attributes = {.attr_set = SUID | DEV | EXEC | RO};
		ok(syscall(SYS_mount_setattr, part, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes), "setattr");
		attach(part, target);
		close(part);
		close(target);
	}
	int empty = -1;
	mask(proc, masked_proc, 14, &empty);
	mask(sys, masked_sys, 3, &empty);
	int at = point(root, "etc");
	const char *const names[] = {"resolv.conf", "hosts", "hostname"};
	/* Only what is attached somewhere can be copied. */
	mount_on(files, root, "tmp");
	for (int i = 0; i < 3; i++) {
		int file = copy(files, names[i], 0);
		struct mount_attr attributes = {.attr_set = SUID | DEV | RO};
		ok(syscall(SYS_mount_setattr, file, "", AT_EMPTY_PATH, &attributes, sizeof attributes), "setattr");
		mount_on(file, at, names[i]);
		close(file);
	}
	ok(fchdir(root), "root");
	ok(syscall(SYS_umount2, "tmp", 2), "umount");
	ok(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	ok(fchdir(old), "old root");
	ok(syscall(SYS_umount2, ".", 2), "umount");
	ok(chdir("/"), "/");
	ok(sethostname("minimum", 7), "hostname");
	struct rlimit limit = {0, 0};
	setrlimit(RLIMIT_CORE, &limit);
	limit = (struct rlimit){1024, 524288};
	setrlimit(RLIMIT_NOFILE, &limit);
	syscall(SYS_close_range, 3, ~0U, 4);
	syscall(SYS_keyctl, 1, NULL);
	const unsigned long long kept = 0xa80425fb;
	for (int i = 0; i <= 40; i++)
		if (!(kept >> i & 1)) prctl(PR_CAPBSET_DROP, i);
	struct sock_filter filter[300];
	for (int i = 0; i < 299; i++) filter[i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 4000 + i, 0, 0);
	filter[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
	filter[299] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program_of = {300, filter};
	ok(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 4, &program_of), "seccomp");
	syscall(SYS_setgroups, 0, NULL);
	ok(syscall(SYS_setresgid, 0, 0, 0), "gid");
	ok(syscall(SYS_setresuid, 0, 0, 0), "uid");
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{kept, kept, 0}, {0, 0, 0}};
	ok(syscall(SYS_capset, &header, data), "capset");
	prctl(PR_SET_DUMPABLE, 0);
	prctl(PR_SET_PDEATHSIG, 9);
	umask(022);
	char *argv[] = {program, NULL}, *env[] = {"PATH=/bin:/usr/bin", "HOME=/root", "HOSTNAME=minimum", NULL};
	execve(program, argv, env);
	die(program);
}

/* The layers, with two directories in this one on top. */
static int overlay(const char *lower, const char *points) {
	ok(mkdir("fs", 0755), "fs");
	ok(mkdir("work", 0700), "work");
	int fs = fsopen("overlay");
	int layers[] = {open(lower, O_DIRECTORY | O_CLOEXEC), open(points, O_DIRECTORY | O_CLOEXEC),
		open("fs", O_DIRECTORY | O_CLOEXEC), open("work", O_DIRECTORY | O_CLOEXEC)};
	fsconfig(fs, 5, "lowerdir+", NULL, layers[0]);
	fsconfig(fs, 5, "lowerdir+", NULL, layers[1]);
	fsconfig(fs, 5, "upperdir", NULL, layers[2]);
	fsconfig(fs, 5, "workdir", NULL, layers[3]);
	fsconfig(fs, 0, "volatile", NULL, 0);
	fsconfig(fs, 0, "userxattr", NULL, 0);
	fsconfig(fs, 6, NULL, NULL, 0);
	int root = fsmount(fs, DEV);
	close(fs);
	for (int i = 0; i < 4; i++) close(layers[i]);
	return root;
}

static void remove_overlay(void) {
	unlink("work/work/incompat/volatile/dirty"), rmdir("work/work/incompat/volatile"), rmdir("work/work/incompat"), rmdir("work/work"), rmdir("work"), rmdir("fs");
}

static int run_over(char **words) {
	char *at = words[0], *place = words[3];
	int target = ok(open(at, O_PATH | O_CLOEXEC), at);
	ok(mkdir(place, 0700), place);
	int before = ok(open(".", O_PATH | O_CLOEXEC), ".");
	ok(chdir(place), place);
	int root = overlay(words[1], words[2]);
	attach(root, target);
	close(root);
	pid_t child = ok(vfork(), "vfork");
	if (child == 0) {
		if (fchdir(before) == 0) execv(words[4], words + 4);
		_exit(127);
	}
	int status;
	ok(waitpid(child, &status, 0), "wait");
	ok(syscall(SYS_umount2, at, 2), "umount");
	remove_overlay();
	ok(rmdir(place), place);
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

int main(int count, char **words) {
	int over = count > 1 && strcmp(words[1], "-o") == 0;
	if (over ? count < 7 : count != 5) return 2;
	/* Everything is private from here on. */
	ok(unshare(CLONE_NEWNS), "unshare");
	ok(syscall(SYS_mount, NULL, "/", NULL, 0x44000, NULL), "make mounts private");
	if (over) return run_over(words + 2);
	char *lower = words[1], *points = words[2], *place = words[3], *program = words[4];
	pthread_t maker, carrier;
	pthread_create(&maker, NULL, make_network, NULL);

	/* What others see of the container. */
	ok(mkdir(place, 0700), place);
	ok(chdir(place), place);
	int alive = ok(open("alive", O_CREAT | O_RDWR | O_CLOEXEC, 0600), "alive");
	ok(flock(alive, LOCK_EX | LOCK_NB), "lock");
	put("definition", "{}");
	put("state", "{}");
	int listener = ok(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
	struct sockaddr_un address = {AF_UNIX, "control"};
	ok(bind(listener, (void *)&address, sizeof address), "bind");
	ok(listen(listener, 128), "listen");

	/* Its root. */
	int root = overlay(lower, points);
	int files = make("tmpfs", (const char *[]){"mode", "0755", NULL}, SUID | DEV | EXEC);
	const char *const names[] = {"resolv.conf", "hosts", "hostname"};
	for (int i = 0; i < 3; i++) {
		int fd = ok(openat(files, names[i], O_CREAT | O_WRONLY | O_CLOEXEC, 0644), names[i]);
		ok(write(fd, "text\n", 5), names[i]);
		close(fd);
	}

	/* Its limits. */
	char group[100], door[120];
	snprintf(group, sizeof group, "/sys/fs/cgroup/pids/minimum-%d", getpid());
	if (access("/sys/fs/cgroup/pids", F_OK)) snprintf(group, sizeof group, "/sys/fs/cgroup/minimum-%d", getpid());
	ok(mkdir(group, 0755), group);
	snprintf(door, sizeof door, "%s/pids.max", group);
	int max = ok(open(door, O_WRONLY | O_CLOEXEC), door);
	ok(write(max, "4096", 4), door);
	close(max);
	snprintf(door, sizeof door, "%s/tasks", group);
	int cgroup = open(door, O_WRONLY | O_CLOEXEC);
	if (cgroup < 0) {
		snprintf(door, sizeof door, "%s/cgroup.procs", group);
		cgroup = ok(open(door, O_WRONLY | O_CLOEXEC), door);
	}

	pthread_join(maker, NULL);
	stop_network = eventfd(0, EFD_CLOEXEC);
	pthread_create(&carrier, NULL, carry, NULL);
	int pidfd = -1;
	struct clone_args arguments = {
		.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD,
		.pidfd = (unsigned long)&pidfd,
		.exit_signal = SIGCHLD,
	};
	pid_t child = ok(syscall(SYS_clone3, &arguments, sizeof arguments), "clone3");
	if (child == 0) become(root, files, cgroup, program);
	close(root);
	close(files);
	int status;
	ok(waitpid(child, &status, 0), "wait");

	/* Nothing of it stays. */
	ok(rmdir(group), group);
	unlink("control"), unlink("state"), unlink("definition"), unlink("alive");
	remove_overlay();
	ok(rmdir(place), place);
	ok(write(stop_network, &(long){1}, 8), "stop the network");
	pthread_join(carrier, NULL);
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}
