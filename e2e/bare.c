/* The bare kernel operations of one bridge attachment, and a stopwatch: what e2e/ratio.rs compares the program with.
 *
 *   bare add BRIDGE HOST_IF POD_NETNS POD_IF MAC ADDRESS GATEWAY STORE   the pod's end, its address, a default route; a /16
 *   bare del HOST_IF ADDRESS STORE
 *   bare time STDIN STDOUT PROGRAM [ARG...]                              prints "nanoseconds peak-KiB exit-status"
 *
 * The same changes as the bridge plugin with host-local: a veth pair in one request with master, peer, peer's MAC and namespace; the
 * sysctls; both ends up; address and route; the address's file in a store with a lock. No configuration is read, nothing is looked up
 * that need not be, nothing is verified, nothing is undone: no program that does the job can be faster by much.
 *
 * The stopwatch is here and not in the benchmark, because the peak memory of a process counts what it had before exec, and that is its
 * parent's: a small parent shows what is really the program's. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct request {
    struct nlmsghdr head;
    char space[1024];
};

static void *grow(struct request *r, const void *data, size_t length) {
    void *at = (char *)r + NLMSG_ALIGN(r->head.nlmsg_len);
    if (data) memcpy(at, data, length);
    r->head.nlmsg_len = NLMSG_ALIGN(r->head.nlmsg_len) + length;
    return at;
}

static struct rtattr *attribute(struct request *r, int type, const void *data, size_t length) {
    struct rtattr head = {.rta_len = RTA_LENGTH(length), .rta_type = type};
    struct rtattr *at = grow(r, &head, sizeof head);
    if (length) grow(r, data, length);
    return at;
}

static void close_nest(struct request *r, struct rtattr *nest) {
    nest->rta_len = (char *)r + NLMSG_ALIGN(r->head.nlmsg_len) - (char *)nest;
}

static struct request begin(int type, int flags, const void *body, size_t length) {
    struct request r = {.head = {NLMSG_LENGTH(0), type, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0}};
    grow(&r, body, length);
    return r;
}

static void ask(int fd, struct request *r, const char *what) {
    char answer[4096];
    if (send(fd, r, r->head.nlmsg_len, 0) < 0) err(1, "%s", what);
    ssize_t n = recv(fd, answer, sizeof answer, 0);
    struct nlmsghdr *head = (struct nlmsghdr *)answer;
    if (n < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) || head->nlmsg_type != NLMSG_ERROR) errx(1, "%s: no answer", what);
    errno = -((struct nlmsgerr *)NLMSG_DATA(head))->error;
    if (errno) err(1, "%s", what);
}

static int netlink(void) {
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0) err(1, "netlink socket");
    return fd;
}

static void make_veth(int fd, const char *host, const char *pod, const char *mac, int netns, int bridge) {
    struct ifinfomsg link = {0};
    struct request r = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link, sizeof link);
    attribute(&r, IFLA_IFNAME, host, strlen(host) + 1);
    attribute(&r, IFLA_MASTER, &bridge, sizeof bridge);
    struct rtattr *info = attribute(&r, IFLA_LINKINFO, NULL, 0);
    attribute(&r, IFLA_INFO_KIND, "veth", 4);
    struct rtattr *data = attribute(&r, IFLA_INFO_DATA, NULL, 0);
    struct rtattr *peer = attribute(&r, VETH_INFO_PEER, NULL, 0);
    grow(&r, &link, sizeof link);
    attribute(&r, IFLA_IFNAME, pod, strlen(pod) + 1);
    attribute(&r, IFLA_ADDRESS, ether_aton(mac), 6);
    attribute(&r, IFLA_NET_NS_FD, &netns, sizeof netns);
    close_nest(&r, peer);
    close_nest(&r, data);
    close_nest(&r, info);
    ask(fd, &r, "veth");
}

static void set_up(int fd, int index) {
    struct ifinfomsg link = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    struct request r = begin(RTM_NEWLINK, 0, &link, sizeof link);
    ask(fd, &r, "up");
}

static void add_address(int fd, int index, in_addr_t address) {
    in_addr_t broadcast = address | htonl(0xffff);
    struct ifaddrmsg body = {.ifa_family = AF_INET, .ifa_prefixlen = 16, .ifa_index = index};
    struct request r = begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &body, sizeof body);
    attribute(&r, IFA_LOCAL, &address, 4);
    attribute(&r, IFA_ADDRESS, &address, 4);
    attribute(&r, IFA_BROADCAST, &broadcast, 4);
    ask(fd, &r, "address");
}

static void add_default_route(int fd, int index, in_addr_t gateway) {
    struct rtmsg body = {.rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT, .rtm_type = RTN_UNICAST};
    struct request r = begin(RTM_NEWROUTE, NLM_F_CREATE, &body, sizeof body);
    attribute(&r, RTA_GATEWAY, &gateway, 4);
    attribute(&r, RTA_OIF, &index, sizeof index);
    ask(fd, &r, "route");
}

static void write_file(const char *path, int flags, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0600);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) err(1, "%s", path);
    close(fd);
}

static void sysctl(const char *family, const char *link, const char *key, const char *value) {
    char path[256];
    snprintf(path, sizeof path, "/proc/sys/net/%s/conf/%s/%s", family, link, key);
    write_file(path, 0, value);
}

static int lock(const char *store) {
    char path[512];
    snprintf(path, sizeof path, "%s/lock", store);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || flock(fd, LOCK_EX)) err(1, "%s", path);
    return fd;
}

static int add(char **arg) {
    char path[512];
    int netns = open(arg[2], O_RDONLY | O_CLOEXEC), fd = netlink();
    if (netns < 0) err(1, "%s", arg[2]);
    int held = lock(arg[7]);
    snprintf(path, sizeof path, "%s/%s", arg[7], arg[5]);
    write_file(path, O_CREAT | O_EXCL, "container\r\neth0");
    close(held);
    make_veth(fd, arg[1], arg[3], arg[4], netns, if_nametoindex(arg[0]));
    sysctl("ipv6", arg[1], "accept_ra", "0");
    set_up(fd, if_nametoindex(arg[1]));
    if (setns(netns, CLONE_NEWNET)) err(1, "setns");
    int inside = netlink(), index = if_nametoindex(arg[3]);
    sysctl("ipv6", arg[3], "accept_dad", "0");
    sysctl("ipv4", arg[3], "arp_notify", "1");
    set_up(inside, index);
    add_address(inside, index, inet_addr(arg[5]));
    add_default_route(inside, index, inet_addr(arg[6]));
    puts("{}");
    return 0;
}

static int del(char **arg) {
    char path[512];
    struct ifinfomsg link = {0};
    struct request r = begin(RTM_DELLINK, 0, &link, sizeof link);
    attribute(&r, IFLA_IFNAME, arg[0], strlen(arg[0]) + 1);
    ask(netlink(), &r, "delete");
    int held = lock(arg[2]);
    snprintf(path, sizeof path, "%s/%s", arg[2], arg[1]);
    if (unlink(path)) err(1, "%s", path);
    close(held);
    return 0;
}

static int stopwatch(char **arg) {
    int in = open(arg[0], O_RDONLY | O_CLOEXEC), out = open(arg[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (in < 0 || out < 0) err(1, "%s or %s", arg[0], arg[1]);
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    pid_t child = fork();
    if (child < 0) err(1, "fork");
    if (!child) {
        dup2(in, 0), dup2(out, 1), dup2(out, 2);
        execv(arg[2], arg + 2);
        _exit(127);
    }
    int status;
    struct rusage usage;
    if (wait4(child, &status, 0, &usage) < 0) err(1, "wait4");
    clock_gettime(CLOCK_MONOTONIC, &end);
    long long nanoseconds = (end.tv_sec - start.tv_sec) * 1000000000LL + end.tv_nsec - start.tv_nsec;
    printf("%lld %ld %d\n", nanoseconds, usage.ru_maxrss, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 10 && !strcmp(argv[1], "add")) return add(argv + 2);
    if (argc == 5 && !strcmp(argv[1], "del")) return del(argv + 2);
    if (argc >= 5 && !strcmp(argv[1], "time")) return stopwatch(argv + 2);
    fputs("usage: bare add|del|time ... (see the head of bare.c)\n", stderr);
    return 2;
}
