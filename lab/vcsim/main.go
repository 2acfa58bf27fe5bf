// The lab's vCenter: govmomi's simulator, and a few things of a real one that it leaves out. A clone takes time, its name
// is taken once in a folder, it is powered on when its spec says so, and then it gets an address and SSH host keys.
// And a task on a virtual disk is about something that clients know, and a machine's disks can be exported.
// A template with RUN.container hands that on to its clones: they are containers, which tell their keys themselves.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"flag"
	"fmt"
	"io/ioutil"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const answer = `<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body><CloneVM_TaskResponse xmlns="urn:vim25"><returnval type="Task">%s</returnval></CloneVM_TaskResponse></soapenv:Body></soapenv:Envelope>`

type vcenter struct {
	service *simulator.Service
	inner   http.Handler
	clones  sync.Mutex // held while a name is looked for and taken
	copying time.Duration
	guests  int32
}

func (v *vcenter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, exported) {
		send(w, r)
		return
	}
	body, _ := ioutil.ReadAll(r.Body)
	r.Body = ioutil.NopCloser(bytes.NewReader(body))
	method, err := simulator.UnmarshalBody(types.TypeFunc(), body)
	if err != nil {
		v.inner.ServeHTTP(w, r)
		return
	}
	switch spec := method.Body.(type) {
	case *types.CloneVM_Task:
		v.clone(w, r, spec, body)
	case *types.PowerOnVM_Task:
		v.inner.ServeHTTP(w, r)
		v.boot(spec.This)
	case *types.CreateVirtualDisk_Task, *types.CopyVirtualDisk_Task, *types.MoveVirtualDisk_Task, *types.DeleteVirtualDisk_Task:
		v.disk(w, r)
	case *types.ExportVm:
		export(w, spec)
	default:
		v.inner.ServeHTTP(w, r)
	}
}

const exported = "/exported/"

const exportAnswer = `<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body><ExportVmResponse xmlns="urn:vim25"><returnval type="HttpNfcLease">%s</returnval></ExportVmResponse></soapenv:Body></soapenv:Envelope>`

// HttpNfcLease lets whoever has its URLs read a machine's disks until it ends. Its name is its type in vSphere's API.
type HttpNfcLease struct {
	mo.HttpNfcLease
	files map[string]string
}

// HttpNfcLeaseProgress hears that somebody is still at it.
func (l *HttpNfcLease) HttpNfcLeaseProgress(_ *simulator.Context, _ *types.HttpNfcLeaseProgress) soap.HasFault {
	return &methods.HttpNfcLeaseProgressBody{Res: new(types.HttpNfcLeaseProgressResponse)}
}

// HttpNfcLeaseComplete ends it.
func (l *HttpNfcLease) HttpNfcLeaseComplete(_ *simulator.Context, req *types.HttpNfcLeaseComplete) soap.HasFault {
	simulator.Map.Remove(req.This)
	return &methods.HttpNfcLeaseCompleteBody{Res: new(types.HttpNfcLeaseCompleteResponse)}
}

// HttpNfcLeaseAbort ends it, too.
func (l *HttpNfcLease) HttpNfcLeaseAbort(_ *simulator.Context, req *types.HttpNfcLeaseAbort) soap.HasFault {
	simulator.Map.Remove(req.This)
	return &methods.HttpNfcLeaseAbortBody{Res: new(types.HttpNfcLeaseAbortResponse)}
}

// export answers with a lease for the machine's disks, whose files go out as they lie on the datastore.
func export(w http.ResponseWriter, req *types.ExportVm) {
	lease := &HttpNfcLease{files: map[string]string{}}
	lease.State = types.HttpNfcLeaseStateReady
	lease.Info = &types.HttpNfcLeaseInfo{Entity: req.This, LeaseTimeout: 300}
	simulator.Map.Put(lease)
	lease.Info.Lease = lease.Self
	vm, _ := simulator.Map.Get(req.This).(*simulator.VirtualMachine)
	for _, device := range vm.Config.Hardware.Device {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		var file object.DatastorePath
		file.FromString(disk.Backing.(types.BaseVirtualDeviceFileBackingInfo).GetVirtualDeviceFileBackingInfo().FileName)
		for _, ref := range vm.Datastore {
			if store, ok := simulator.Map.Get(ref).(*simulator.Datastore); ok && store.Name == file.Datastore {
				name := fmt.Sprintf("disk-%d.vmdk", len(lease.files))
				lease.files[name] = path.Join(store.Info.GetDatastoreInfo().Url, file.Path)
				lease.Info.DeviceUrl = append(lease.Info.DeviceUrl, types.HttpNfcLeaseDeviceUrl{
					Key: name, Url: "https://*" + exported + lease.Self.Value + "/" + name, Disk: types.NewBool(true), TargetId: name,
				})
			}
		}
	}
	fmt.Fprintf(w, exportAnswer, lease.Self.Value)
}

// send lets a lease's file go out; knowing the URL is all that it takes, as with a real one.
func send(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, exported), "/")
	ref := types.ManagedObjectReference{Type: "HttpNfcLease", Value: parts[0]}
	lease, ok := simulator.Map.Get(ref).(*HttpNfcLease)
	if !ok || len(parts) != 2 || lease.files[parts[1]] == "" {
		http.NotFound(w, r)
		return
	}
	http.ServeFile(w, r, lease.files[parts[1]])
}

// clone answers with a task at once, as vCenter does, and does it while the disks "are copied".
func (v *vcenter) clone(w http.ResponseWriter, r *http.Request, req *types.CloneVM_Task, body []byte) {
	task := simulator.CreateTask(req.This, "cloneVm", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		made, fault := v.make(r, req, body)
		if fault != nil {
			return nil, fault
		}
		if req.Spec.PowerOn {
			if _, err := methods.PowerOnVM_Task(context.Background(), v.service, &types.PowerOnVM_Task{This: *made}); err != nil {
				log.Printf("%s is not powered on: %s", req.Name, err)
			}
			v.boot(*made)
		}
		return *made, nil
	})
	go task.Run()
	fmt.Fprintf(w, answer, task.Self.Value)
}

// disk lets the task be about a datacenter: the simulator says its disk manager, which is no entity and which clients refuse.
func (v *vcenter) disk(w http.ResponseWriter, r *http.Request) {
	reply := httptest.NewRecorder()
	v.inner.ServeHTTP(reply, r)
	if match := taskID.FindSubmatch(reply.Body.Bytes()); match != nil {
		ref := types.ManagedObjectReference{Type: "Task", Value: string(match[1])}
		if task, ok := simulator.Map.Get(ref).(*simulator.Task); ok {
			center := simulator.Map.Any("Datacenter").Reference()
			task.Info.Entity = &center
		}
	}
	for name, values := range reply.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(reply.Code)
	w.Write(reply.Body.Bytes())
}

// make is the clone itself, powered off; one at a time, so that a name is taken once.
func (v *vcenter) make(r *http.Request, req *types.CloneVM_Task, body []byte) (*types.ManagedObjectReference, types.BaseMethodFault) {
	v.clones.Lock()
	defer v.clones.Unlock()
	if there := child(req); there != nil {
		return nil, &types.DuplicateName{Name: req.Name, Object: *there}
	}
	time.Sleep(v.copying)
	again := r.Clone(context.Background())
	again.Body = ioutil.NopCloser(bytes.NewReader(body))
	reply := httptest.NewRecorder()
	v.inner.ServeHTTP(reply, again)
	made := child(req)
	if made == nil {
		return nil, fault(reply.Body.Bytes())
	}
	if template, ok := simulator.Map.Get(req.This).(*simulator.VirtualMachine); ok {
		if run := option(template, runContainer); run != "" {
			v.say(*made, runContainer, run)
		}
	}
	return made, nil
}

var taskID = regexp.MustCompile(`<returnval type="Task">([^<]+)<`)

// fault is what the simulator's own clone ended with.
func fault(reply []byte) types.BaseMethodFault {
	if match := taskID.FindSubmatch(reply); match != nil {
		ref := types.ManagedObjectReference{Type: "Task", Value: string(match[1])}
		if task, ok := simulator.Map.Get(ref).(*simulator.Task); ok && task.Info.Error != nil {
			return task.Info.Error.Fault
		}
	}
	return &types.SystemError{Reason: string(reply)}
}

func child(req *types.CloneVM_Task) *types.ManagedObjectReference {
	folder, ok := simulator.Map.Get(req.Folder).(*simulator.Folder)
	if !ok {
		return nil
	}
	if found := simulator.Map.FindByName(req.Name, folder.ChildEntity); found != nil {
		ref := found.Reference()
		return &ref
	}
	return nil
}

// boot does what the guest would do: it gets an address, and tells its host keys.
func (v *vcenter) boot(ref types.ManagedObjectReference) {
	vm, ok := simulator.Map.Get(ref).(*simulator.VirtualMachine)
	if !ok || vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		return
	}
	if option(vm, runContainer) != "" { // a guest that really runs speaks for itself
		go v.listen(vm)
		return
	}
	key := make([]byte, 33)
	rand.Read(key)
	number := atomic.AddInt32(&v.guests, 1)
	says := []types.BaseOptionValue{&types.OptionValue{
		Key: "guestinfo.phoenix.hostkeys", Value: "ssh-ed25519 " + base64.StdEncoding.EncodeToString(key),
	}}
	address := fmt.Sprintf("198.18.%d.%d", number/250%250, number%250+1)
	says = append(says, &types.OptionValue{Key: "SET.guest.ipAddress", Value: address})
	spec := types.ReconfigVM_Task{This: ref, Spec: types.VirtualMachineConfigSpec{ExtraConfig: says}}
	if _, err := methods.ReconfigVM_Task(context.Background(), v.service, &spec); err != nil {
		log.Printf("%s says nothing: %s", vm.Name, err)
	}
	cards(vm, address)
}

// cards lets the guest's tools tell the address of each card, too: Packer waits for that.
func cards(vm *simulator.VirtualMachine, address string) {
	var told []types.GuestNicInfo
	for _, device := range vm.Config.Hardware.Device {
		if card, ok := device.(types.BaseVirtualEthernetCard); ok {
			found := []types.NetIpConfigInfoIpAddress{{IpAddress: address, PrefixLength: 16, State: "preferred"}}
			told = append(told, types.GuestNicInfo{
				MacAddress:     card.GetVirtualEthernetCard().MacAddress,
				Connected:      true,
				DeviceConfigId: card.GetVirtualEthernetCard().Key,
				IpAddress:      []string{address},
				IpConfig:       &types.NetIpConfigInfo{IpAddress: found},
			})
		}
	}
	simulator.Map.Update(vm, []types.PropertyChange{{Name: "guest.net", Val: told}})
}

// What VMware's tools say through the hypervisor, a container of the lab says on its console.
var told = regexp.MustCompile(`^guest rpc: info-set (guestinfo\.[A-Za-z0-9_.-]+) (.+)$`)

// listen takes down what the guest tells, until its container ends. A guest can write guestinfo alone.
func (v *vcenter) listen(vm *simulator.VirtualMachine) {
	name := fmt.Sprintf("vcsim-%s-%s", vm.Name, vm.Config.Uuid)
	command := exec.Command("docker", "logs", "--follow", name)
	output, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		log.Printf("%s is not heard: %s", vm.Name, err)
		return
	}
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if match := told.FindStringSubmatch(strings.TrimSpace(lines.Text())); match != nil {
			v.say(vm.Self, match[1], match[2])
		}
	}
	command.Wait()
}

func (v *vcenter) say(ref types.ManagedObjectReference, key, value string) {
	says := []types.BaseOptionValue{&types.OptionValue{Key: key, Value: value}}
	spec := types.ReconfigVM_Task{This: ref, Spec: types.VirtualMachineConfigSpec{ExtraConfig: says}}
	if _, err := methods.ReconfigVM_Task(context.Background(), v.service, &spec); err != nil {
		log.Printf("%s says nothing: %s", ref.Value, err)
	}
}

const runContainer = "RUN.container"

func option(vm *simulator.VirtualMachine, key string) string {
	for _, option := range vm.Config.ExtraConfig {
		if value := option.GetOptionValue(); value.Key == key {
			return fmt.Sprint(value.Value)
		}
	}
	return ""
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address and port")
	cert := flag.String("cert", "", "TLS certificate")
	key := flag.String("key", "", "its key")
	copying := flag.Duration("copying", time.Second, "how long a clone's disks are copied")
	hosts := flag.Int("hosts", 3, "hosts in the cluster")
	flag.Parse()
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		log.Fatal(err)
	}
	model := simulator.VPX()
	model.ClusterHost, model.Pool, model.Datastore, model.Machine = *hosts, 1, 2, 1
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	// The password comes by the environment: a command line can be read by everybody.
	model.Service.Listen = &url.URL{Host: *listen, User: url.UserPassword(os.Getenv("VCSIM_USER"), os.Getenv("VCSIM_PASSWORD"))}
	model.Service.RegisterEndpoints = true
	server := model.Service.NewServer()
	server.Config.Handler = &vcenter{service: model.Service, inner: server.Config.Handler, copying: *copying}
	fmt.Println(server.URL.Host)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	<-end
	model.Remove()
}
