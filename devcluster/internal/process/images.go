package process

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	internalapi "k8s.io/cri-api/pkg/apis"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/easel-dev/easel/devcluster/internal/image"
)

// imageIDPrefix tells an image's id from its name: the kubelet passes either.
const imageIDPrefix = "process:"

func imageID(name string) string { return imageIDPrefix + name }

// imageName is what the pod wrote.
func imageName(spec *api.ImageSpec) string {
	if spec.UserSpecifiedImage != "" {
		return spec.UserSpecifiedImage
	}
	return strings.TrimPrefix(spec.Image, imageIDPrefix)
}

// findImage reads the map each time: it is small, and an edit of it counts at once.
func (r *Runtime) findImage(spec *api.ImageSpec) (*image.Image, error) {
	m, err := image.Load(r.options.ImageMap)
	if err != nil {
		return nil, err
	}
	return m.Find(imageName(spec))
}

// Images implements the CRI's image service: the images of the map are there, and no other can
// be pulled.
type Images struct {
	internalapi.ImageManagerService
	Runtime *Runtime
}

// ListImages implements the CRI. Images take no space, so the kubelet need not know of any.
func (i Images) ListImages(context.Context, *api.ImageFilter) ([]*api.Image, error) { return nil, nil }

// ImageStatus implements the CRI.
func (i Images) ImageStatus(_ context.Context, spec *api.ImageSpec, _ bool) (*api.ImageStatusResponse, error) {
	img, err := i.Runtime.findImage(spec)
	if err != nil {
		return &api.ImageStatusResponse{}, nil //nolint:nilerr // not present; the pull says why
	}
	name := imageName(spec)
	out := &api.Image{Id: imageID(name), RepoTags: []string{name}, Size: 1, Spec: &api.ImageSpec{Image: name}}
	if img.User != nil {
		out.Uid = &api.Int64Value{Value: *img.User}
	}
	return &api.ImageStatusResponse{Image: out}, nil
}

// PullImage implements the CRI.
func (i Images) PullImage(_ context.Context, spec *api.ImageSpec, _ *api.AuthConfig, _ *api.PodSandboxConfig) (string, error) {
	if _, err := i.Runtime.findImage(spec); err != nil {
		return "", status.Error(codes.NotFound, err.Error())
	}
	return imageID(imageName(spec)), nil
}

// RemoveImage implements the CRI.
func (i Images) RemoveImage(context.Context, *api.ImageSpec) error { return nil }

// ImageFsInfo implements the CRI.
func (i Images) ImageFsInfo(context.Context) (*api.ImageFsInfoResponse, error) {
	fs := []*api.FilesystemUsage{{Timestamp: time.Now().UnixNano(),
		FsId:      &api.FilesystemIdentifier{Mountpoint: i.Runtime.options.Dir},
		UsedBytes: &api.UInt64Value{}, InodesUsed: &api.UInt64Value{}}}
	return &api.ImageFsInfoResponse{ImageFilesystems: fs, ContainerFilesystems: fs}, nil
}

// Close implements the CRI.
func (i Images) Close(context.Context) error { return nil }
