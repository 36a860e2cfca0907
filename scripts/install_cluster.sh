#!/usr/bin/env bash
# Makes sure that what a test cluster is built with and runs on is there (docs/decisions/0029-test-cluster.md).  No service is started.
#
#   golang-1.19-go, golang-1.19-src   compile Kubernetes' servers from Debian's source package of it
#   golang-github-modern-go-reflect2-dev   the version of a library of theirs that works with this Go
#   dpkg-dev                          unpacks source packages
#   etcd-server                       what the API server keeps objects in
#   containerd, runc                  run a node's containers
#   containernetworking-plugins       give pods their network
#   iptables, nftables, conntrack     kube-proxy's rules for services
#   iproute2, util-linux              the machine's namespaces: ip, unshare, mount
#   dnsmasq-base                      names of services
#   buildah, crun, skopeo             build images and write them as archives
#
# Not kubernetes-client: it has kubectl, which nothing here needs, and takes the place of one that is there.
set -euo pipefail

go=/usr/lib/go-1.19/bin/go
reflect2=/usr/share/gocode/src/github.com/modern-go/reflect2
there() { for each in "$@"; do PATH="$PATH:/usr/sbin:/sbin" command -v "$each" >/dev/null || return 1; done; }

if [ -x $go ] && [ -d $reflect2 ] && [ -x /usr/lib/cni/bridge ] \
    && there dpkg-source etcd containerd ctr runc iptables nft conntrack ip unshare dnsmasq buildah skopeo; then
    exit 0
fi
"$(dirname "$0")/install_debian.sh" "a Kubernetes of the tests' own" \
    golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev dpkg-dev \
    etcd-server containerd runc containernetworking-plugins iptables nftables conntrack iproute2 util-linux dnsmasq-base buildah crun skopeo
