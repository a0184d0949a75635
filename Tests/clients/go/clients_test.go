// Package clients runs etcd's own Go client, and what comes with it, against three members of Moonraft.
//
// Debian's golang-etcd-server-dev brings the client as source; Tests/clients/run.sh builds and runs this file.
package clients

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/concurrency"
	"go.etcd.io/etcd/clientv3/leasing"
	"go.etcd.io/etcd/clientv3/mirror"
	"go.etcd.io/etcd/clientv3/namespace"
	"go.etcd.io/etcd/clientv3/ordering"
	"go.etcd.io/etcd/etcdserver/api/v3lock/v3lockpb"
	"go.uber.org/zap"
)

const firstPort = 24010

var (
	directory string
	endpoints []string
	members   [3]*exec.Cmd
	ctx       = context.Background()
)

func start(i int) {
	peers := []string{}
	for j := range members {
		peers = append(peers, fmt.Sprintf("m%d=http://127.0.0.1:%d", j, firstPort+10*j+1))
	}
	client := fmt.Sprintf("http://127.0.0.1:%d", firstPort+10*i)
	peer := fmt.Sprintf("http://127.0.0.1:%d", firstPort+10*i+1)
	name := fmt.Sprintf("m%d", i)
	member := exec.Command(os.Getenv("MOONRAFT_BIN"), "--name", name, "--data-dir", filepath.Join(directory, name),
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", strings.Join(peers, ","))
	log, err := os.OpenFile(filepath.Join(directory, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer log.Close()
	member.Stdout, member.Stderr = log, log
	if err := member.Start(); err != nil {
		panic(err)
	}
	members[i] = member
}

func end(i int, signal os.Signal) {
	members[i].Process.Signal(signal)
	members[i].Wait()
}

func TestMain(m *testing.M) {
	made, err := os.MkdirTemp("", "clients")
	if err != nil {
		panic(err)
	}
	directory = made
	for i := range members {
		endpoints = append(endpoints, fmt.Sprintf("127.0.0.1:%d", firstPort+10*i))
		start(i)
	}
	code := m.Run()
	for i := range members {
		end(i, syscall.SIGKILL)
	}
	if code != 0 {
		fmt.Println("logs:", directory)
		os.Exit(code)
	}
	os.RemoveAll(directory)
}

func dial(t *testing.T) *clientv3.Client {
	quiet := zap.NewProductionConfig()
	quiet.Level = zap.NewAtomicLevelAt(zap.ErrorLevel)
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 10 * time.Second,
		DialKeepAliveTime: 6 * time.Second, DialKeepAliveTimeout: 3 * time.Second, LogConfig: &quiet})
	check(t, err)
	t.Cleanup(func() { client.Close() })
	return client
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func number(text []byte) int {
	n, _ := strconv.Atoi(string(text))
	return n
}

// Members are killed and stopped in turn under optimistic transactions, STM transfers, mutexes and a watch: no
// acknowledged write is lost or doubled, transfers keep their sum, a mutex has one holder, the watch has no gap.
func TestRollingRestartsUnderLoad(t *testing.T) {
	client := dial(t)
	const keys, accounts = 5, 4
	for i := 0; i < accounts; i++ {
		_, err := client.Put(ctx, fmt.Sprintf("bank/%d", i), "100")
		check(t, err)
	}
	var begun int64
	for i := 0; i < keys; i++ {
		reply, err := client.Put(ctx, fmt.Sprintf("counter/%d", i), "0")
		check(t, err)
		begun = reply.Header.Revision
	}
	var acknowledged, unknown [keys]int64
	var holders, locks, ended int32
	var workers sync.WaitGroup
	work := func(count int, body func(context.Context, *clientv3.Client)) {
		for i := 0; i < count; i++ {
			own := dial(t)
			workers.Add(1)
			go func() {
				defer workers.Done()
				for atomic.LoadInt32(&ended) == 0 {
					limited, cancel := context.WithTimeout(ctx, 10*time.Second)
					body(limited, own)
					cancel()
				}
			}()
		}
	}
	work(10, func(ctx context.Context, own *clientv3.Client) {
		k := rand.Intn(keys)
		key := fmt.Sprintf("counter/%d", k)
		found, err := own.Get(ctx, key)
		if err != nil {
			return
		}
		next := strconv.Itoa(number(found.Kvs[0].Value) + 1)
		reply, err := own.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", found.Kvs[0].ModRevision)).
			Then(clientv3.OpPut(key, next)).Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			atomic.AddInt64(&unknown[k], 1)
		} else if reply.Succeeded {
			atomic.AddInt64(&acknowledged[k], 1)
		}
	})
	for _, level := range []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable} {
		level := level
		work(2, func(ctx context.Context, own *clientv3.Client) {
			from, to := rand.Intn(accounts), rand.Intn(accounts-1)
			if to >= from {
				to++
			}
			concurrency.NewSTM(own, func(s concurrency.STM) error {
				a, b := fmt.Sprintf("bank/%d", from), fmt.Sprintf("bank/%d", to)
				x, y := number([]byte(s.Get(a))), number([]byte(s.Get(b)))
				s.Put(a, strconv.Itoa(x-1))
				s.Put(b, strconv.Itoa(y+1))
				return nil
			}, concurrency.WithIsolation(level), concurrency.WithAbortContext(ctx))
		})
	}
	work(4, func(ctx context.Context, own *clientv3.Client) {
		session, err := concurrency.NewSession(own, concurrency.WithTTL(30), concurrency.WithContext(ctx))
		if err != nil {
			return
		}
		mutex := concurrency.NewMutex(session, "mutex")
		if mutex.Lock(ctx) == nil {
			if atomic.AddInt32(&holders, 1) != 1 {
				t.Error("two hold the mutex")
			}
			time.Sleep(time.Millisecond)
			atomic.AddInt32(&holders, -1)
			atomic.AddInt32(&locks, 1)
			mutex.Unlock(context.Background())
		}
		session.Close()
	})
	watched := map[string]int{}
	done := make(chan struct{})
	stop, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(done)
		for revision := begun; stop.Err() == nil; {
			for reply := range client.Watch(clientv3.WithRequireLeader(stop), "counter/", clientv3.WithPrefix(),
				clientv3.WithRev(revision+1)) {
				for _, event := range reply.Events {
					key, n := string(event.Kv.Key), number(event.Kv.Value)
					if key == "counter/end" {
						return
					}
					if n != watched[key]+1 {
						t.Errorf("%s: %d follows %d", key, n, watched[key])
					}
					watched[key], revision = n, event.Kv.ModRevision
				}
			}
		}
	}()
	for i, signal := range []os.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL} {
		time.Sleep(time.Second)
		end(i, signal)
		time.Sleep(2 * time.Second)
		start(i)
		time.Sleep(2 * time.Second)
	}
	atomic.StoreInt32(&ended, 1)
	workers.Wait()
	_, err := client.Put(ctx, "counter/end", "")
	check(t, err)
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("the watch does not come to its end")
	}
	sum, total := 0, int64(0)
	for i := 0; i < accounts; i++ {
		found, err := client.Get(ctx, fmt.Sprintf("bank/%d", i))
		check(t, err)
		sum += number(found.Kvs[0].Value)
	}
	for k := range acknowledged {
		key := fmt.Sprintf("counter/%d", k)
		found, err := client.Get(ctx, key)
		check(t, err)
		n := int64(number(found.Kvs[0].Value))
		total += n
		if n < acknowledged[k] || n > acknowledged[k]+unknown[k] || watched[key] != int(n) {
			t.Errorf("%s is %d: %d acknowledged, %d unknown, watched to %d", key, n, acknowledged[k], unknown[k], watched[key])
		}
	}
	if sum != 100*accounts || total < 100 || locks < 10 {
		t.Errorf("the bank holds %d, the counters %d, %d locks were taken", sum, total, locks)
	}
}

// The client's wrappers see what a plain client sees.
func TestWrappers(t *testing.T) {
	client := dial(t)
	leased, closeLeased, err := leasing.NewKV(client, "leases/")
	check(t, err)
	defer closeLeased()
	ordered := ordering.NewKV(client.KV, ordering.NewOrderViolationSwitchEndpointClosure(client))
	for name, kv := range map[string]clientv3.KV{"leasing": leased, "ordering": ordered, "namespace": namespace.NewKV(client.KV, "ns/")} {
		for i := 0; i < 20; i++ {
			_, err := kv.Put(ctx, "wrapped/"+name, strconv.Itoa(i))
			check(t, err)
			found, err := kv.Get(ctx, "wrapped/"+name)
			check(t, err)
			if len(found.Kvs) != 1 || number(found.Kvs[0].Value) != i {
				t.Errorf("%s reads %v after writing %d", name, found.Kvs, i)
			}
		}
	}
	found, err := client.Get(ctx, "ns/wrapped/namespace")
	check(t, err)
	if found.Count != 1 {
		t.Error("a namespace has no prefix")
	}
	copied := 0
	replies, errors := mirror.NewSyncer(client, "wrapped/", 0).SyncBase(ctx)
	for reply := range replies {
		copied += len(reply.Kvs)
	}
	check(t, <-errors)
	if copied != 2 {
		t.Errorf("a mirror copied %d keys", copied)
	}
}

// The Lock service and the client's mutex stand in one queue.
func TestLockServiceAndMutexShareAQueue(t *testing.T) {
	client := dial(t)
	session, err := concurrency.NewSession(client, concurrency.WithTTL(30))
	check(t, err)
	mutex := concurrency.NewMutex(session, "shared")
	check(t, mutex.Lock(ctx))
	service := v3lockpb.NewLockClient(client.ActiveConnection())
	lock := func(limit time.Duration) (*v3lockpb.LockResponse, error) {
		// A lease of its own: a call that is given up takes the key of its lease with it.
		lease, err := client.Grant(ctx, 30)
		check(t, err)
		limited, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return service.Lock(limited, &v3lockpb.LockRequest{Name: []byte("shared"), Lease: int64(lease.ID)})
	}
	if _, err = lock(300 * time.Millisecond); err == nil {
		t.Fatal("locked twice")
	}
	time.AfterFunc(300*time.Millisecond, func() { mutex.Unlock(ctx) })
	reply, err := lock(10 * time.Second)
	check(t, err)
	_, err = service.Unlock(ctx, &v3lockpb.UnlockRequest{Key: reply.Key})
	check(t, err)
}
