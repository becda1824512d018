// Package volume makes PersistentVolumes for claims: each is a directory of the
// state directory, which all nodes share.
package volume

import (
	"context"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	storage "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
)

const (
	// ClassName is the default StorageClass.
	ClassName       = "standard"
	provisionerName = "easel.dev/devcluster"
	provisionedBy   = "pv.kubernetes.io/provisioned-by"
	defaultClass    = "storageclass.kubernetes.io/is-default-class"
	// retryInterval is how often what could not be done is tried again.
	retryInterval = 10 * time.Second
)

// Provisioner answers claims of the class.
type Provisioner struct {
	Client kubernetes.Interface
	Dir    string
}

// Start makes the StorageClass and serves claims until the context ends.
func (p *Provisioner) Start(ctx context.Context) error {
	class := &storage.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: ClassName, Annotations: map[string]string{defaultClass: "true"}},
		Provisioner: provisionerName, ReclaimPolicy: ptr.To(v1.PersistentVolumeReclaimDelete),
		VolumeBindingMode: ptr.To(storage.VolumeBindingImmediate), // every node sees every directory
	}
	_, err := p.Client.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	factory := informers.NewSharedInformerFactory(p.Client, retryInterval)
	claims, volumes := factory.Core().V1().PersistentVolumeClaims().Informer(), factory.Core().V1().PersistentVolumes().Informer()
	for informer, react := range map[cache.SharedIndexInformer]func(any) error{
		claims:  func(object any) error { return p.provision(ctx, object.(*v1.PersistentVolumeClaim)) },
		volumes: func(object any) error { return p.reclaim(ctx, object.(*v1.PersistentVolume)) },
	} {
		handle := func(object any) {
			if err := react(object); err != nil {
				klog.ErrorS(err, "volume")
			}
		}
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: handle, UpdateFunc: func(_, object any) { handle(object) }})
		if err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	return nil
}

func (p *Provisioner) provision(ctx context.Context, claim *v1.PersistentVolumeClaim) error {
	if ptr.Deref(claim.Spec.StorageClassName, "") != ClassName || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil {
		return nil
	}
	name := "pvc-" + string(claim.UID)
	path := filepath.Join(p.Dir, name)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o777); err != nil { // whatever the umask: kubelets don't apply fsGroup to such volumes
		return err
	}
	volume := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: provisionerName}},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName: ClassName, AccessModes: claim.Spec.AccessModes, VolumeMode: claim.Spec.VolumeMode,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: claim.Spec.Resources.Requests[v1.ResourceStorage]},
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource:        v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path}},
			ClaimRef: &v1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
		},
	}
	_, err := p.Client.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// reclaim removes a volume of ours whose claim is gone.
func (p *Provisioner) reclaim(ctx context.Context, volume *v1.PersistentVolume) error {
	if volume.Annotations[provisionedBy] != provisionerName || volume.Status.Phase != v1.VolumeReleased ||
		volume.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimDelete || volume.DeletionTimestamp != nil {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(p.Dir, volume.Name)); err != nil {
		return err
	}
	err := p.Client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
