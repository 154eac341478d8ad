/* Ethernet frames for tests: sends some, and says what really arrived.
 *
 *   frames pass TX_NETNS TX_IF VID|- RX_NETNS RX_IF   prints "untagged", "vid N" or "nothing"
 *   frames watch                                      prints each frame of every link of this namespace until SIGTERM
 *
 * A namespace is a name under /run/netns, or "-" for the caller's own. Knows nothing of the program under test. The frames have
 * an EtherType of their own: IPv4 would pass through br_netfilter where a node has it on. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EXPERIMENTAL 0x88b5 /* IEEE local experimental EtherType 1 */
enum { TRIES = 10, WAIT_MS = 50 };

struct seen {
    struct sockaddr_ll from;
    unsigned char frame[2048];
    ssize_t length;
    int vid; /* -1: untagged */
};

static void enter(const char *name) {
    char path[256];
    if (!strcmp(name, "-")) return;
    snprintf(path, sizeof path, "/run/netns/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET)) err(2, "%s", path);
    close(fd);
}

/* A packet socket in that namespace; the process returns to `home`. Without ifname: every link, also later ones. */
static int packet_socket(int home, const char *netns, const char *ifname, unsigned char mac[6]) {
    enter(netns);
    int one = 1, fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
    if (fd < 0) err(2, "packet socket in %s", netns);
    if (setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &one, sizeof one)) err(2, "PACKET_AUXDATA");
    if (ifname) {
        struct ifreq req = {0};
        strncpy(req.ifr_name, ifname, IFNAMSIZ - 1);
        if (ioctl(fd, SIOCGIFINDEX, &req)) err(2, "%s in %s", ifname, netns);
        struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = req.ifr_ifindex};
        struct packet_mreq all = {.mr_ifindex = req.ifr_ifindex, .mr_type = PACKET_MR_PROMISC};
        if (bind(fd, (struct sockaddr *)&at, sizeof at)) err(2, "bind to %s", ifname);
        if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all)) err(2, "promiscuous %s", ifname);
        if (ioctl(fd, SIOCGIFHWADDR, &req)) err(2, "MAC of %s", ifname);
        memcpy(mac, req.ifr_hwaddr.sa_data, 6);
    }
    if (setns(home, CLONE_NEWNET)) err(2, "back to the own namespace");
    return fd;
}

/* The kernel takes the outer tag out of the frame and tells it beside it. */
static int receive(int fd, struct seen *s) {
    union {
        char space[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {s->frame, sizeof s->frame};
    struct msghdr msg = {&s->from, sizeof s->from, &iov, 1, &control, sizeof control, 0};
    s->vid = -1;
    s->length = recvmsg(fd, &msg, MSG_DONTWAIT);
    if (s->length < 14) return 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA) continue;
        struct tpacket_auxdata aux;
        memcpy(&aux, CMSG_DATA(c), sizeof aux);
        if (aux.tp_status & TP_STATUS_VLAN_VALID) s->vid = aux.tp_vlan_tci & 0xfff;
    }
    if (s->vid < 0 && s->frame[12] == 0x81 && s->frame[13] == 0) {
        s->vid = (s->frame[14] << 8 | s->frame[15]) & 0xfff;
        memmove(s->frame + 12, s->frame + 16, s->length -= 4);
    }
    return 1;
}

static size_t build(unsigned char *frame, const unsigned char mac[6], const char *vid, uint64_t nonce) {
    size_t n = 12;
    memset(frame, 0xff, 6);
    memcpy(frame + 6, mac, 6);
    if (strcmp(vid, "-")) {
        int id = atoi(vid);
        frame[n++] = 0x81, frame[n++] = 0;
        frame[n++] = id >> 8, frame[n++] = id & 0xff;
    }
    frame[n++] = EXPERIMENTAL >> 8, frame[n++] = EXPERIMENTAL & 0xff;
    memcpy(frame + n, &nonce, sizeof nonce);
    return n + 46; /* the smallest payload */
}

static int pass(char **arg) {
    unsigned char tx_mac[6], rx_mac[6], frame[128] = {0};
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int tx = packet_socket(home, arg[0], arg[1], tx_mac), rx = packet_socket(home, arg[3], arg[4], rx_mac);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t nonce = (uint64_t)now.tv_nsec << 32 | (uint32_t)getpid();
    size_t length = build(frame, tx_mac, arg[2], nonce);
    for (int i = 0; i < TRIES; i++) {
        if (send(tx, frame, length, 0) < 0) err(2, "send on %s", arg[1]);
        struct pollfd p = {rx, POLLIN, 0};
        while (poll(&p, 1, WAIT_MS) > 0) {
            struct seen s;
            if (!receive(rx, &s) || s.from.sll_pkttype == PACKET_OUTGOING) continue;
            if (s.length < 22 || memcmp(s.frame + 14, &nonce, sizeof nonce)) continue;
            if (s.vid < 0) puts("untagged");
            else printf("vid %d\n", s.vid);
            return 0;
        }
    }
    puts("nothing");
    return 0;
}

static _Noreturn void watch(void) {
    unsigned char none[6];
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int fd = packet_socket(home, "-", NULL, none);
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        struct seen s;
        char name[IF_NAMESIZE];
        if (poll(&p, 1, -1) < 0 || !receive(fd, &s)) continue;
        if (!if_indextoname(s.from.sll_ifindex, name)) snprintf(name, sizeof name, "gone%d", s.from.sll_ifindex);
        const unsigned char *d = s.frame, *m = s.frame + 6;
        printf("%s %s %02x:%02x:%02x:%02x:%02x:%02x > %02x:%02x:%02x:%02x:%02x:%02x type %02x%02x\n", name,
               s.from.sll_pkttype == PACKET_OUTGOING ? "out" : "in", m[0], m[1], m[2], m[3], m[4], m[5], d[0], d[1], d[2], d[3], d[4],
               d[5], s.frame[12], s.frame[13]);
    }
}

int main(int argc, char **argv) {
    if (argc == 7 && !strcmp(argv[1], "pass")) return pass(argv + 2);
    if (argc == 2 && !strcmp(argv[1], "watch")) watch();
    fprintf(stderr, "usage: frames pass TX_NETNS TX_IF VID|- RX_NETNS RX_IF | frames watch\n");
    return 2;
}
